"""No engine outlives its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rollout.orphan import die_with_parent

PARENT = """
import multiprocessing, time

def child(pipe):
    from rollout.orphan import die_with_parent
    die_with_parent()
    pipe.send(None)
    time.sleep(600)

if __name__ == "__main__":
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(sender,))
    process.start()
    receiver.recv()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 (one short read)
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_worker_takes_its_engine_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _is_running(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while _is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    if _is_running(pid):
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the child outlived its parent")


def test_a_process_that_nobody_started_so_is_left_alone() -> None:
    with pytest.raises(RuntimeError):
        die_with_parent()
