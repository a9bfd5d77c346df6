"""Which rows go into which update and which micro-batch, alike on every rank.

Input: lengths and asked tokens per row of this rank. Output: an UpdatePlan per optimiser update.
ZeRO's collectives run inside forward and backward: ranks must make equally many calls of every module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from learner.collectives import max_over_ranks

HEAD_TOKENS = 4096  # asked tokens per slice of the head: with 152 k words, float32 logits of a slice are 2.5 GB


@dataclass(frozen=True)
class UpdatePlan:
    """One optimiser update of this rank.

    Attributes:
        micro_batches: row indices; an empty one where a peer has more micro-batches than this rank.
        head_slices: into how many slices each micro-batch's asked tokens are cut for the head; equal on all ranks.
    """

    micro_batches: tuple[tuple[int, ...], ...]
    head_slices: int

    @property
    def rows(self) -> list[int]:
        """All row indices of the update."""
        return [index for indices in self.micro_batches for index in indices]


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices packed so that each batch's padded size (rows x longest) stays within ``budget``; at least one a batch.

    Longest first (equal lengths in order), so that rows of a like length share a batch and padding stays small.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def members_of_updates(count: int, updates: int, *, rank: int, world_size: int, total: int) -> list[list[int]]:
    """Which of this rank's ``count`` rows belong to which update.

    Row i of rank r has place ``r + world_size * i`` in the whole step, and the places are cut into equal runs: one rank
    and several divide a step of ``total`` rows alike.
    """
    members: list[list[int]] = [[] for _ in range(updates)]
    for index in range(count):
        place = rank + world_size * index
        members[min(place * updates // total, updates - 1)].append(index)
    return members


def plan_updates(
    members: Sequence[Sequence[int]],
    lengths: Sequence[int],
    asked: Sequence[int],
    budget: int,
    device: torch.device,
) -> list[UpdatePlan]:
    """Collective: micro-batches of at most ``budget`` padded tokens for each update's rows.

    Args:
        members: row indices per update.
        lengths: tokens per row.
        asked: tokens per row whose log-probability is asked.
        budget: padded tokens per micro-batch.
        device: where the collective runs.
    """
    packed = [[[rows[i] for i in batch] for batch in pack([lengths[i] for i in rows], budget)] for rows in members]
    own_counts = [float(len(batches)) for batches in packed]
    own_asked = max((sum(asked[i] for i in batch) for batches in packed for batch in batches), default=0)
    *counts, most_asked = max_over_ranks([*own_counts, float(own_asked)], device)
    head_slices = max(1, -(-int(most_asked) // HEAD_TOKENS))
    plans = []
    for batches, count in zip(packed, counts, strict=True):
        padded = [*batches, *([] for _ in range(int(count) - len(batches)))]
        plans.append(UpdatePlan(tuple(tuple(batch) for batch in padded), head_slices))
    return plans
