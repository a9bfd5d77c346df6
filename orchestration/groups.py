"""GroupOrder and GroupSummary: what the driver sends to a worker, and the numbers that it gets back (promise 8).

Role: the driver's view of a group. The group itself, its tensors and texts, stay in the object store.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.group import RolloutGroup, Sampling
from schemas.prompt import Prompt


@dataclass(frozen=True)
class GroupOrder:
    """One prompt to generate and score ``group_size`` completions for."""

    group_id: str
    prompt: Prompt
    epoch: int
    incarnation: int
    sampling: Sampling
    group_size: int


@dataclass(frozen=True)
class GroupSummary:
    """The numbers of a scored group.

    Attributes:
        rewards: one a completion; None where a score is missing.
        scores: values by scorer, over the completions that have one.
        errors: number of completions by ``scorer:code``.
    """

    group_id: str
    worker: str
    oldest_version: int
    token_counts: tuple[int, ...]
    rewards: tuple[float | None, ...]
    scores: dict[str, tuple[float, ...]]
    errors: dict[str, int]
    generate_s: float
    score_s: float

    @property
    def scored(self) -> int:
        return sum(reward is not None for reward in self.rewards)

    @property
    def reward_mean(self) -> float:
        """Mean over the scored completions; call only when there is one."""
        return float(np.mean([reward for reward in self.rewards if reward is not None]))

    @property
    def has_signal(self) -> bool:
        """False when every scored completion has the same reward, and so an advantage of zero."""
        return len({reward for reward in self.rewards if reward is not None}) > 1

    @staticmethod
    def of(group: RolloutGroup) -> GroupSummary:
        scores: dict[str, list[float]] = {}
        errors: dict[str, int] = {}
        for completion in group.completions:
            for name, score in completion.scores.items():
                scores.setdefault(name, []).append(score.value)
            for name, error in completion.errors.items():
                key = f"{name}:{error.code}"
                errors[key] = errors.get(key, 0) + 1
        return GroupSummary(
            group_id=group.group_id,
            worker=group.worker,
            oldest_version=group.oldest_version or 0,
            token_counts=tuple(len(c.token_ids) for c in group.completions),
            rewards=tuple(c.reward for c in group.completions),
            scores={name: tuple(values) for name, values in scores.items()},
            errors=errors,
            generate_s=group.generate_s,
            score_s=group.score_s,
        )


def group_seed(run_seed: int, prompt_id: str, epoch: int) -> int:
    """The sampling seed of a group: the same for the same run seed, prompt and epoch, on any worker; 31 bits."""
    return zlib.crc32(f"{run_seed}/{prompt_id}/{epoch}".encode()) & 0x7FFFFFFF


def all_scores(summaries: Sequence[GroupSummary]) -> dict[str, list[float]]:
    """Values by scorer, over all completions of all groups."""
    merged: dict[str, list[float]] = {}
    for summary in summaries:
        for name, values in summary.scores.items():
            merged.setdefault(name, []).extend(values)
    return merged
