"""Group-shared attention: one row ``[prompt, completion 1, ..., completion n]`` instead of n rows.

Input: lengths. Output: segment numbers, the boolean 4-D mask, position ids, and which position predicts which token.
The film and the question are read once for all completions; a completion sees the prompt and itself, never a sibling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PROMPT_SEGMENT = 0
PADDING_SEGMENT = -1


def segment_numbers(prompt_length: int, completion_lengths: Sequence[int], row_length: int) -> Tensor:
    """Which part each position belongs to, int64 [row_length]: 0 = prompt, i = completion i, -1 = padding."""
    segments_L = torch.full((row_length,), PADDING_SEGMENT)
    segments_L[:prompt_length] = PROMPT_SEGMENT
    start = prompt_length
    for number, length in enumerate(completion_lengths, start=1):
        segments_L[start : start + length] = number
        start += length
    return segments_L


def shared_prefix_mask(segments_GL: Tensor) -> Tensor:
    """True where a position may look: bool [G, 1, L, L], causal and (same segment or prompt).

    transformers hands a 4-D mask to SDPA unchanged. Padding looks at itself, since a row without any True is NaN.
    """
    length = segments_GL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=segments_GL.device).tril()
    same_GLL = segments_GL[:, :, None] == segments_GL[:, None, :]
    prompt_G1L = (segments_GL == PROMPT_SEGMENT)[:, None, :]
    return (causal_LL & (same_GLL | prompt_G1L))[:, None]


def shared_prefix_positions(prompt_positions_3P: Tensor, completion_lengths: Sequence[int], row_length: int) -> Tensor:
    """M-RoPE positions of a row, int64 [3, row_length]: every completion counts on from the prompt's maximum + 1."""
    positions_3L = torch.zeros(3, row_length, dtype=torch.int64)
    start = prompt_positions_3P.shape[1]
    positions_3L[:, :start] = prompt_positions_3P
    first = int(prompt_positions_3P.max()) + 1
    for length in completion_lengths:
        positions_3L[:, start : start + length] = torch.arange(first, first + length)
        start += length
    return positions_3L


def predicting_positions(prompt_length: int, completion_lengths: Sequence[int]) -> Tensor:
    """For each completion token in order, the position in the row that predicts it, int64 [tokens].

    A completion's first token is predicted by the prompt's last position, the others by the token before them.
    """
    positions: list[int] = []
    start = prompt_length
    for length in completion_lengths:
        if length:
            positions.append(prompt_length - 1)
            positions.extend(range(start, start + length - 1))
        start += length
    return torch.tensor(positions, dtype=torch.int64)
