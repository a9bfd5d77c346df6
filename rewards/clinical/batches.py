"""Batches: token lists in, one result each out, with hardly any padding.

Role: how every clinical encoder runs: sorted by length, a bounded batch at once, results in order.
Input: lists of token ids. Output: padded arrays for one forward pass; the results in the order of the lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound=Sequence[Any])
T = TypeVar("T")


def by_length(
    sequences: Sequence[S],
    batch_size: int,
    forward: Callable[[list[S]], Sequence[T]],
    size: Callable[[S], int] = len,
    largest: float = math.inf,
) -> list[T]:
    """``forward`` of batches of like length, the longest first (what does not fit shows at once).

    Args:
        sequences: what is encoded, e.g. token ids of one text each.
        batch_size: sequences of a batch, at most.
        forward: one result a sequence of its batch, in the batch's order.
        size: a sequence's length.
        largest: the sum of a batch's lengths, at most; a sequence beyond it is a batch of its own.

    Returns:
        One result a sequence, in the order of ``sequences``.
    """
    sizes = [size(sequence) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda index: -sizes[index])
    batches: list[list[int]] = []
    total = 0
    for index in order:
        total += sizes[index]
        if not batches or len(batches[-1]) == batch_size or total > largest:
            batches.append([])
            total = sizes[index]
        batches[-1].append(index)
    results: dict[int, T] = {}
    for batch in batches:
        outputs = forward([sequences[index] for index in batch])
        results.update(zip(batch, outputs, strict=True))
    return [results[index] for index in range(len(sequences))]


def padded(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(ids_BT, mask_BT): padded on the right to the batch's longest; the mask is 1 on what is real."""
    longest = max(map(len, sequences), default=0)
    ids_BT = np.full((len(sequences), longest), pad_id, dtype=np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for row, sequence in enumerate(sequences):
        ids_BT[row, : len(sequence)] = sequence
        mask_BT[row, : len(sequence)] = 1
    return ids_BT, mask_BT
