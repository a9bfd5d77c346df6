"""Pin a process, and all that it starts later, to CPU cores.

Role: engine and learner share a machine without fighting for cores. Input: core numbers.
Output: the process's affinity mask and the thread-count variables that torch, OpenMP and vLLM read when they load.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from schemas.errors import ConfigError

# Read once, when the libraries start their thread pools; children inherit them.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def pin(cores: Sequence[int]) -> None:
    """Run this process and its later children on ``cores`` alone, with as many threads.

    Call it before torch or vllm is imported: their thread pools are sized at import, and an affinity mask
    without thread counts (or the reverse) oversubscribes the cores.

    Args:
        cores: core numbers of this machine.

    Raises:
        ConfigError: no core, or a core that this process may not use.
        RuntimeError: torch is already imported.
    """
    allowed = os.sched_getaffinity(0)
    if not cores or not set(cores) <= allowed:
        raise ConfigError(
            "rollout.cores_per_worker",
            f"cores out of {sorted(allowed)}",
            list(cores),
            "lower rollout.cores_per_worker or rollout.workers",
        )
    if "torch" in sys.modules:
        raise RuntimeError("pin() was called after torch was imported: its thread pool keeps the old size")
    os.sched_setaffinity(0, cores)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(len(cores))
    # The engine computes in a process of its own, which inherits mask and thread counts; no second binding.
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
