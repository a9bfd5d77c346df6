"""What this machine has: cores, memory, GPUs. Asked without importing torch, so that the driver stays small.

Role: the other side of a plan. Input: the operating system, nvidia-smi where there is one. Output: ``Machine``.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestration.placement import usable_cores

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_QUERY_DEADLINE_S = 20.0  # nvidia-smi takes seconds on a machine with many cards


@dataclass(frozen=True)
class Gpu:
    """One card."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """Usable cores (their numbers), memory in bytes, cards."""

    cores: tuple[int, ...]
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


def this_machine() -> Machine:
    """The machine that this process runs on, within its container's limits."""
    return Machine(tuple(usable_cores()), _memory_bytes(), _gpus())


def _memory_bytes() -> int:
    limits = [int(psutil.virtual_memory().total)]
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=_QUERY_DEADLINE_S)
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver that doesn't answer gives no usable card
    return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Cards from nvidia-smi's ``name, MiB`` lines; a card that doesn't tell its memory is left out."""
    cards = []
    for line in text.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            cards.append(Gpu(name.strip(), int(mebibytes) * 2**20))
    return tuple(cards)
