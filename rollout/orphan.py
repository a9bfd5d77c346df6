"""An engine's process must not outlive its worker.

Role: called in the engine's process. vLLM 0.32 leaves it running, with its memory and its core, when the worker that
started it is killed. Input: none. Output: the kernel kills this process when its parent ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL once the thread that started this process has ended.

    Raises:
        RuntimeError: this process was not started by multiprocessing, so nobody's end is to be followed.
        OSError: the kernel refuses.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only for an engine's process")
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent.pid:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)
