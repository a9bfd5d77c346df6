"""Which CPU cores each process gets on a machine without GPUs: engines and learner ranks never share one.

Role: oversubscribed cores cost 40 % here (two processes of two threads each on two cores), so each gets its own.
Input: worker and rank counts, cores each. Output: core numbers, or one line that says what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import ConfigError


@dataclass(frozen=True)
class Placement:
    """Core numbers per rollout worker and per learner rank."""

    workers: tuple[tuple[int, ...], ...]
    ranks: tuple[tuple[int, ...], ...]


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def on_gpus(workers: int, ranks: int) -> Placement:
    """No cores for anybody: each process has a GPU, and Ray places it."""
    return Placement(workers=((),) * workers, ranks=((),) * ranks)


def place(cores: Sequence[int], workers: int, cores_per_worker: int, ranks: int, cores_per_rank: int) -> Placement:
    """Deal out cores: workers first, then ranks.

    Raises:
        ConfigError: there are fewer cores than asked for.
    """
    needed = workers * cores_per_worker + ranks * cores_per_rank
    if needed > len(cores):
        raise ConfigError(
            "rollout.workers x rollout.cores_per_worker + learner.ranks x learner.cores",
            f"must be at most the {len(cores)} cores of this machine",
            needed,
            "lower one of them",
        )
    deal = iter(cores)
    return Placement(
        workers=tuple(tuple(next(deal) for _ in range(cores_per_worker)) for _ in range(workers)),
        ranks=tuple(tuple(next(deal) for _ in range(cores_per_rank)) for _ in range(ranks)),
    )
