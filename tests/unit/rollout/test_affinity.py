"""Pinning binds a process, its threads and its children, or says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rollout.affinity import pin
from schemas.errors import ConfigError

SCRIPT = """
import json, os, subprocess, sys
from rollout.affinity import pin
core = min(os.sched_getaffinity(0))
pin([core])
child = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
seen = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.split()
print(json.dumps([core, sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], seen]))
"""


def test_a_pinned_process_computes_on_its_core_alone_and_so_do_its_children() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    core, affinity, threads, child = json.loads(result.stdout)
    assert affinity == [core]
    assert threads == "1"
    assert child == [f"[{core}]", "1"]


@pytest.mark.parametrize("cores", [[], [100_000]])
def test_cores_that_are_not_ours_are_refused(cores: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.cores_per_worker"):
        pin(cores)


def test_pinning_after_torch_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    with pytest.raises(RuntimeError, match="torch"):
        pin([min(os.sched_getaffinity(0))])
