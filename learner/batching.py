"""Rows: what the model reads in one forward, made of groups or of conversations.

Input: (RolloutGroup, ProcessedPrompt) pairs as they travelled, or ProcessedConversations. Output: padded rows, and one
column per token of what the loss needs. Checks the fingerprint, the pictures and the sampling support (promise 10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from learner.group_attention import (
    predicting_positions,
    segment_numbers,
    shared_prefix_mask,
    shared_prefix_positions,
)
from schemas.errors import LearnerError
from schemas.group import RolloutGroup
from schemas.processed import ProcessedConversation, ProcessedPrompt

Group = tuple[RolloutGroup, ProcessedPrompt]


@dataclass(frozen=True)
class ModelFacts:
    """What batching must know about the model.

    Attributes:
        image_token_id: the placeholder that a merged picture token takes the place of.
        merge_size: patches per merged token along each side.
        patch_width: numbers per patch of pixels (the D of pixel_values_ND).
        padding_id: any id that stands for no picture: padding is never looked at and never predicted.
        forbidden_ids: ids that the engine could not sample.
        rope_index: the model's own ``get_rope_index(input_ids, mm_token_type_ids, image_grid_thw=...)``.
    """

    image_token_id: int
    merge_size: int
    patch_width: int
    padding_id: int
    forbidden_ids: frozenset[int]
    rope_index: Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Rows:
    """Padded rows for one forward, and the tokens whose log-probability is asked.

    Attributes:
        input_ids_GL: token ids, int64.
        positions_3GL: M-RoPE positions, int64.
        mask_G1LL: bool, or None for plain causal rows (right padding needs no mask).
        token_types_GL: 1 at picture tokens, else 0, int64.
        pixel_values_ND: patches of all pictures, float32; never empty (``with_picture``).
        image_grid_thw_I3: patch grid per picture, int64.
        predictors_T: flat index (row * L + position) of the position that predicts each asked token, int64.
        targets_T: the asked tokens' ids, int64.
        temperature_T: sampling temperature per asked token, float32.
    """

    input_ids_GL: Tensor
    positions_3GL: Tensor
    mask_G1LL: Tensor | None
    token_types_GL: Tensor
    pixel_values_ND: Tensor
    image_grid_thw_I3: Tensor
    predictors_T: Tensor
    targets_T: Tensor
    temperature_T: Tensor

    def to(self, device: torch.device) -> Rows:
        """The same rows on ``device``."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return Rows(**{name: None if t is None else t.to(device) for name, t in tensors.items()})


@dataclass(frozen=True)
class TokenColumns:
    """Per completion token, in the order group, completion, position; all [T].

    Attributes:
        rollout_logprobs_T: from sampling, float32.
        advantages_T: its completion's, float32; 0 where there is none.
        loss_mask_T: bool, False where its completion has no advantage.
    """

    rollout_logprobs_T: Tensor
    advantages_T: Tensor
    loss_mask_T: Tensor

    def to(self, device: torch.device) -> TokenColumns:
        """The same columns on ``device``."""
        return TokenColumns(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class GroupBatch:
    """One micro-batch: rows, and columns of their completion tokens."""

    rows: Rows
    tokens: TokenColumns

    def to(self, device: torch.device) -> GroupBatch:
        """The same batch on ``device``."""
        return GroupBatch(self.rows.to(device), self.tokens.to(device))


def check_group(group: RolloutGroup, processed: ProcessedPrompt, facts: ModelFacts) -> None:
    """Raises LearnerError, naming the group, if its tensors or its sampling can't be trained on."""

    def refuse(why: str) -> LearnerError:
        return LearnerError(f"group {group.group_id}: {why}")

    if processed.fingerprint() != group.fingerprint:
        raise refuse("the tensors are not those that the engine read: the fingerprint differs")
    sampling = group.sampling
    if sampling.top_p < 1.0 or sampling.top_k > 0:
        raise refuse(
            f"sampled with top_p {sampling.top_p} and top_k {sampling.top_k}: a cut distribution can't be mirrored; "
            "sample with top_p 1 and top_k 0"
        )
    if sampling.temperature <= 0.0:
        raise refuse("sampled greedily (temperature 0): there is no distribution to learn from")
    if not processed.input_ids_P.size:
        raise refuse("the prompt has no token")
    try:
        check_pictures(processed, facts)
    except LearnerError as error:
        raise refuse(str(error)) from error
    for index, completion in enumerate(group.completions):
        if not facts.forbidden_ids.isdisjoint(completion.token_ids) or facts.image_token_id in completion.token_ids:
            raise refuse(f"completion {index} holds a token id that sampling forbids")


def check_pictures(processed: ProcessedPrompt, facts: ModelFacts) -> None:
    """Raises LearnerError unless the runs of picture tokens are exactly what the grid and the pixels say."""
    grid_I3 = processed.image_grid_thw_I3
    is_picture_P = np.concatenate([[False], processed.input_ids_P == facts.image_token_id, [False]])
    edges = np.flatnonzero(np.diff(is_picture_P.astype(np.int8))).reshape(-1, 2)
    found = (edges[:, 1] - edges[:, 0]).tolist()
    expected = (grid_I3.prod(axis=1) // facts.merge_size**2).tolist()
    if found != expected:
        raise LearnerError(f"runs of picture tokens are {found}, the picture grid says {expected}")
    patches = int(grid_I3.prod(axis=1).sum())
    if len(processed.pixel_values_ND) != patches:
        raise LearnerError(f"{len(processed.pixel_values_ND)} patches of pixels, the picture grid says {patches}")


def row_length(group: RolloutGroup, processed: ProcessedPrompt) -> int:
    """Tokens of a group's row: prompt and all completions."""
    return len(processed.input_ids_P) + group.token_count


def group_batch(groups: Sequence[Group], indices: Sequence[int], facts: ModelFacts) -> GroupBatch:
    """One row a group, ``groups[i]`` for i in ``indices``, right-padded; ``check_group`` comes before."""
    chosen = [groups[i] for i in indices]
    length = max(row_length(group, processed) for group, processed in chosen)
    ids_GL = torch.full((len(chosen), length), facts.padding_id)
    segments, positions, predictors = [], [], []
    for row, (group, processed) in enumerate(chosen):
        prompt_length = len(processed.input_ids_P)
        completion_lengths = [len(c.token_ids) for c in group.completions]
        ids = [*processed.input_ids_P.tolist(), *(t for c in group.completions for t in c.token_ids)]
        ids_GL[row, : len(ids)] = torch.tensor(ids)
        segments.append(segment_numbers(prompt_length, completion_lengths, length))
        positions.append(shared_prefix_positions(_positions(processed, facts), completion_lengths, length))
        predictors.append(predicting_positions(prompt_length, completion_lengths) + row * length)
    completions = [(group, c) for group, _ in chosen for c in group.completions]
    lengths_C = torch.tensor([len(c.token_ids) for _, c in completions], dtype=torch.int64)

    def per_token(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).repeat_interleave(lengths_C)

    rows = Rows(
        input_ids_GL=ids_GL,
        positions_3GL=torch.stack(positions, dim=1),
        mask_G1LL=shared_prefix_mask(torch.stack(segments)),
        token_types_GL=(ids_GL == facts.image_token_id).long(),
        **_pictures([processed for _, processed in chosen]),
        predictors_T=torch.cat(predictors),
        targets_T=torch.tensor([t for _, c in completions for t in c.token_ids], dtype=torch.int64),
        temperature_T=per_token([group.sampling.temperature for group, _ in completions]),
    )
    tokens = TokenColumns(
        rollout_logprobs_T=torch.tensor([v for _, c in completions for v in c.rollout_logprobs], dtype=torch.float32),
        advantages_T=per_token([c.advantage or 0.0 for _, c in completions]),
        loss_mask_T=per_token([float(c.advantage is not None) for _, c in completions]).bool(),
    )
    return GroupBatch(rows=with_picture(rows, facts), tokens=tokens)


def conversation_rows(conversations: Sequence[ProcessedConversation], facts: ModelFacts) -> Rows:
    """One plain causal row a conversation; the asked tokens are those under the loss mask.

    Raises LearnerError where pictures and grid disagree, where a mask has another length than its ids, or marks the
    first token, which nothing predicts.
    """
    for index, conversation in enumerate(conversations):
        try:
            check_pictures(conversation.prompt, facts)
        except LearnerError as error:
            raise LearnerError(f"conversation {index} of the batch: {error}") from error
        mask_P = conversation.loss_mask_P
        if mask_P.shape != conversation.prompt.input_ids_P.shape or mask_P[:1].any():
            raise LearnerError(f"conversation {index} of the batch: the loss mask doesn't fit its tokens")
    length = max(len(c.prompt.input_ids_P) for c in conversations)
    ids_GL = torch.full((len(conversations), length), facts.padding_id)
    positions, predictors, targets = [], [], []
    for row, conversation in enumerate(conversations):
        ids_P = torch.from_numpy(conversation.prompt.input_ids_P.astype(np.int64))
        ids_GL[row, : len(ids_P)] = ids_P
        positions.append(shared_prefix_positions(_positions(conversation.prompt, facts), (), length))
        answer_T = torch.from_numpy(np.flatnonzero(conversation.loss_mask_P))
        predictors.append(answer_T - 1 + row * length)
        targets.append(ids_P[answer_T])
    targets_T = torch.cat(targets)
    rows = Rows(
        input_ids_GL=ids_GL,
        positions_3GL=torch.stack(positions, dim=1),
        mask_G1LL=None,
        token_types_GL=(ids_GL == facts.image_token_id).long(),
        **_pictures([c.prompt for c in conversations]),
        predictors_T=torch.cat(predictors),
        targets_T=targets_T,
        temperature_T=torch.ones(len(targets_T)),
    )
    return with_picture(rows, facts)


def with_picture(rows: Rows, facts: ModelFacts) -> Rows:
    """The rows, with one more that holds a black picture of one token and asks for nothing, where they have no picture.

    ZeRO 2 and 3 run their collectives in the order in which gradients appear. A rank without pictures would have no
    gradient for the vision tower, and its collectives would meet the wrong ones of a rank that has some.
    """
    if len(rows.image_grid_thw_I3):
        return rows
    length = rows.input_ids_GL.shape[1]
    ids_1L = torch.full((1, length), facts.padding_id)
    ids_1L[0, 0] = facts.image_token_id
    own_11LL = torch.eye(length, dtype=torch.bool)[None, None]
    return replace(
        rows,
        input_ids_GL=torch.cat([rows.input_ids_GL, ids_1L]),
        positions_3GL=torch.cat([rows.positions_3GL, torch.zeros(3, 1, length, dtype=torch.int64)], dim=1),
        mask_G1LL=None if rows.mask_G1LL is None else torch.cat([rows.mask_G1LL, own_11LL]),
        token_types_GL=torch.cat([rows.token_types_GL, (ids_1L == facts.image_token_id).long()]),
        pixel_values_ND=torch.zeros(facts.merge_size**2, facts.patch_width),
        image_grid_thw_I3=torch.tensor([[1, facts.merge_size, facts.merge_size]]),
    )


def empty_rows(facts: ModelFacts) -> Rows:
    """A forward that asks for nothing: a rank with fewer micro-batches than its peers still joins their collectives."""
    nothing_T = torch.zeros(0, dtype=torch.int64)
    rows = Rows(
        input_ids_GL=torch.full((1, 1), facts.padding_id),
        positions_3GL=torch.zeros(3, 1, 1, dtype=torch.int64),
        mask_G1LL=None,
        token_types_GL=torch.zeros(1, 1, dtype=torch.int64),
        pixel_values_ND=torch.zeros(0, facts.patch_width),
        image_grid_thw_I3=torch.zeros(0, 3, dtype=torch.int64),
        predictors_T=nothing_T,
        targets_T=nothing_T,
        temperature_T=torch.zeros(0),
    )
    return with_picture(rows, facts)


def empty_batch(facts: ModelFacts) -> GroupBatch:
    """``empty_rows`` with no tokens."""
    return GroupBatch(
        rows=empty_rows(facts),
        tokens=TokenColumns(
            rollout_logprobs_T=torch.zeros(0),
            advantages_T=torch.zeros(0),
            loss_mask_T=torch.zeros(0, dtype=torch.bool),
        ),
    )


def split_by_completion(values_T: Tensor, group: RolloutGroup) -> list[list[float]]:
    """A group's flat per-token values as one list a completion."""
    return [part.tolist() for part in values_T.split([len(c.token_ids) for c in group.completions])]


def _positions(processed: ProcessedPrompt, facts: ModelFacts) -> Tensor:
    """The model's own M-RoPE positions of a prompt, int64 [3, P]."""
    ids_1P = torch.from_numpy(processed.input_ids_P.astype(np.int64))[None]
    grid_I3 = torch.from_numpy(processed.image_grid_thw_I3) if len(processed.image_grid_thw_I3) else None
    types_1P = (ids_1P == facts.image_token_id).long()
    positions_31P, _ = facts.rope_index(ids_1P, types_1P, image_grid_thw=grid_I3)
    return positions_31P[:, 0]


def _pictures(prompts: Sequence[ProcessedPrompt]) -> dict[str, Tensor]:
    # Copied: a travelled array is a read-only view of shared memory, which torch would only take with a warning.
    pixels = np.concatenate([p.pixel_values_ND for p in prompts])
    grids = np.concatenate([p.image_grid_thw_I3 for p in prompts])
    return {"pixel_values_ND": torch.from_numpy(pixels), "image_grid_thw_I3": torch.from_numpy(grids)}
