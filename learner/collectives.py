"""Numbers over all ranks: sums and maxima of a few floats.

Input: this rank's numbers. Output: the same list everywhere. In float64, so that token counts stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Element-wise sum."""
    return _reduce(values, device, torch.distributed.ReduceOp.SUM)


def max_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """Element-wise maximum."""
    return _reduce(values, device, torch.distributed.ReduceOp.MAX)


def _reduce(values: Sequence[float], device: torch.device, operation: torch.distributed.ReduceOp) -> list[float]:
    numbers = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(numbers, op=operation)
    return [float(number) for number in numbers.tolist()]
