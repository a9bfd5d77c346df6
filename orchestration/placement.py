"""Which CPU cores each process gets on a machine without GPUs, how much of a GPU on one with.

Role: oversubscribed cores cost 40 % here (two processes of two threads each on two cores), so each gets its own.
Input: worker and rank counts, cores each. Output: core numbers, or one line that says what is missing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from orchestration.config import Recipe
from rewards.scale import ScaleSettings
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


def _gpus_under(replicas: int, each: float) -> int:
    """GPUs of a node that have a part of so many replicas."""
    if not each:
        return 0
    return math.ceil(replicas / math.floor(1 / each + 1e-9)) if each <= 1 else replicas * int(each)


def share_gpus(processes: int, gpus: int, gpu_nodes: int, scale: ScaleSettings) -> float:
    """GPUs for each of so many engines and ranks: 1, a fraction where they must share, 0 where there are none.

    The reward service's replicas are already there: Ray spreads them over the nodes, and packs those of a node. Engines
    get GPUs without a replica; only on a single GPU do they share it with replicas.

    Raises:
        ConfigError: the replicas leave nothing.
    """
    if not gpus:
        return 0.0
    per_node = [scale.most // gpu_nodes + (node < scale.most % gpu_nodes) for node in range(gpu_nodes)]
    free = gpus - sum(_gpus_under(replicas, scale.gpus_per_replica) for replicas in per_node)
    rest = 1.0 - scale.most * scale.gpus_per_replica
    if free > 0:
        return 1 / math.ceil(processes / free)
    if gpus == 1 and rest > 0:
        return math.floor(rest / processes * 10_000) / 10_000  # what Ray counts in
    raise ConfigError(
        "reward.scale.gpus_per_replica",
        f"must leave engines and learner one of the cluster's {gpus} GPUs",
        f"{scale.gpus_per_replica:g}, for {scale.most} replicas",
        "lower it, or have fewer replicas",
    )


def place_run(recipe: Recipe, cores: Sequence[int]) -> Placement:
    """Cores of a run's processes. Raises ConfigError when there are too few."""
    rollout, learner = recipe.rollout, recipe.learner
    return place(cores, rollout.workers, rollout.cores_per_worker, learner.ranks, learner.cores)
