"""Batches: token lists in, one result each out, with hardly any padding.

Role: how every clinical encoder runs: sorted by length, at most ``batch_size`` at once, results in order.
Input: lists of token ids. Output: padded arrays for one forward pass; the results in the order of the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound=Sequence[Any])
T = TypeVar("T")


def by_length(sequences: Sequence[S], batch_size: int, forward: Callable[[list[S]], Sequence[T]]) -> list[T]:
    """``forward`` of batches of like length, the longest first (what does not fit shows at once).

    Args:
        sequences: what is encoded, e.g. token ids of one text each.
        forward: one result a sequence of its batch, in the batch's order.

    Returns:
        One result a sequence, in the order of ``sequences``.
    """
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    results: dict[int, T] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
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
