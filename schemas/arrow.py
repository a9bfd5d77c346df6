"""Arrow schemas of the nouns, and conversions without loss.

Role: how prompts lie on disk, how a group travels through the object store, how a step is recorded.
A travelling group (``pack_group``) carries its tensors; a recorded one (``STEP_SCHEMA``) carries the learner's
per-token numbers instead, since pictures can be processed again and checked against the fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from schemas.group import Completion, RolloutGroup
from schemas.processed import ProcessedPrompt
from schemas.prompt import Conversation, Prompt

_BOX = pa.struct(
    [
        pa.field("x1", pa.float64(), nullable=False),
        pa.field("y1", pa.float64(), nullable=False),
        pa.field("x2", pa.float64(), nullable=False),
        pa.field("y2", pa.float64(), nullable=False),
        pa.field("label", pa.string()),
    ]
)
_IMAGE = pa.struct(
    [
        pa.field("path", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)
_REFERENCE = pa.struct(
    [
        pa.field("report", pa.string()),
        pa.field("boxes", pa.list_(_BOX)),
        pa.field("labels", pa.list_(pa.string())),
    ]
)
_TURN = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("is_answer", pa.bool_(), nullable=False),
    ]
)

PROMPT_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("images", pa.list_(_IMAGE), nullable=False),
        pa.field("box_format", pa.string()),
        pa.field("reference", _REFERENCE, nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("study_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

CONVERSATION_SCHEMA = pa.schema(
    [
        pa.field("conversation_id", pa.string(), nullable=False),
        pa.field("images", pa.list_(_IMAGE), nullable=False),
        pa.field("turns", pa.list_(_TURN), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

_SPAN = pa.struct(
    [
        pa.field("version", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
    ]
)
_SCORE = pa.struct(
    [
        pa.field("value", pa.float64(), nullable=False),
        pa.field("details", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)
_SCORE_ERROR = pa.struct(
    [pa.field("code", pa.string(), nullable=False), pa.field("message", pa.string(), nullable=False)]
)
_COMPLETION = pa.struct(
    [
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("rollout_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("versions", pa.list_(_SPAN), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("scores", pa.map_(pa.string(), _SCORE), nullable=False),
        pa.field("errors", pa.map_(pa.string(), _SCORE_ERROR), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("advantage", pa.float64()),
    ]
)
_SAMPLING = pa.struct(
    [
        pa.field("temperature", pa.float64(), nullable=False),
        pa.field("top_p", pa.float64(), nullable=False),
        pa.field("top_k", pa.int32(), nullable=False),
        pa.field("max_tokens", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)

GROUP_SCHEMA = pa.schema(
    [
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("prompt", pa.struct(list(PROMPT_SCHEMA)), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("incarnation", pa.int32(), nullable=False),
        pa.field("sampling", _SAMPLING, nullable=False),
        pa.field("completions", pa.list_(_COMPLETION), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("generate_s", pa.float64(), nullable=False),
        pa.field("score_s", pa.float64(), nullable=False),
    ]
)

_TENSOR_FIELDS = [
    pa.field("input_ids_P", pa.list_(pa.int32()), nullable=False),
    pa.field("pixel_values_ND", pa.large_binary(), nullable=False),
    pa.field("pixel_shape", pa.list_(pa.int64(), 2), nullable=False),
    pa.field("image_grid_thw_I3", pa.list_(pa.list_(pa.int64(), 3)), nullable=False),
]
TRAVELLING_GROUP_SCHEMA = pa.schema([*GROUP_SCHEMA, *_TENSOR_FIELDS])

STEP_SCHEMA = pa.schema(
    [
        *GROUP_SCHEMA,
        pa.field("step", pa.int32(), nullable=False),
        # One list a completion, aligned with its token_ids.
        pa.field("learner_logprobs", pa.list_(pa.list_(pa.float32()))),
        pa.field("ref_logprobs", pa.list_(pa.list_(pa.float32()))),
    ]
)


def prompts_to_table(prompts: Iterable[Prompt]) -> pa.Table:
    """One row a prompt."""
    return pa.Table.from_pylist([prompt.model_dump() for prompt in prompts], schema=PROMPT_SCHEMA)


def table_to_prompts(table: pa.Table) -> list[Prompt]:
    """The inverse of ``prompts_to_table``. Raises pydantic.ValidationError for a row that is no Prompt."""
    return [Prompt.model_validate(row) for row in table.to_pylist()]


def conversations_to_table(conversations: Iterable[Conversation]) -> pa.Table:
    """One row a conversation."""
    return pa.Table.from_pylist([c.model_dump() for c in conversations], schema=CONVERSATION_SCHEMA)


def table_to_conversations(table: pa.Table) -> list[Conversation]:
    """The inverse of ``conversations_to_table``. Raises pydantic.ValidationError for a row that is none."""
    return [Conversation.model_validate(row) for row in table.to_pylist()]


def _completion_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    # Arrow gives a map back as a list of pairs.
    return {
        **row,
        "scores": {name: {**score, "details": dict(score["details"])} for name, score in row["scores"]},
        "errors": dict(row["errors"]),
    }


def _row_group(row: Mapping[str, Any]) -> RolloutGroup:
    fields = {name: row[name] for name in GROUP_SCHEMA.names}
    fields["completions"] = [Completion.model_validate(_completion_fields(c)) for c in row["completions"]]
    return RolloutGroup.model_validate(fields)


def groups_to_table(groups: Iterable[RolloutGroup]) -> pa.Table:
    """One row a group, without tensors."""
    return pa.Table.from_pylist([group.model_dump() for group in groups], schema=GROUP_SCHEMA)


def table_to_groups(table: pa.Table) -> list[RolloutGroup]:
    """The groups of any table that has GROUP_SCHEMA's columns (travelling and recorded ones too)."""
    return [_row_group(row) for row in table.select(GROUP_SCHEMA.names).to_pylist()]


def pack_group(group: RolloutGroup, processed: ProcessedPrompt) -> pa.Table:
    """A travelling group: one row, with the tensors that the model reads."""
    pixels_ND = np.ascontiguousarray(processed.pixel_values_ND, dtype=np.float32)
    row = {
        **group.model_dump(),
        "input_ids_P": processed.input_ids_P,
        "pixel_values_ND": pixels_ND.tobytes(),
        "pixel_shape": list(pixels_ND.shape),
        "image_grid_thw_I3": processed.image_grid_thw_I3.tolist(),
    }
    return pa.Table.from_pylist([row], schema=TRAVELLING_GROUP_SCHEMA)


def unpack_group(table: pa.Table) -> tuple[RolloutGroup, ProcessedPrompt]:
    """The inverse of ``pack_group``; the pixels are a read-only view of the table's buffer."""
    group = table_to_groups(table)[0]
    shape = cast("list[int]", table["pixel_shape"][0].as_py())
    buffer = table["pixel_values_ND"][0].as_buffer()
    pixels_ND = np.frombuffer(buffer, dtype=np.float32).reshape(shape)
    pixels_ND.flags.writeable = False  # as it is anyway in a table from the object store
    grid = table["image_grid_thw_I3"][0].as_py()
    processed = ProcessedPrompt(
        input_ids_P=np.asarray(table["input_ids_P"][0].values.to_numpy(), dtype=np.int32),
        pixel_values_ND=pixels_ND,
        image_grid_thw_I3=np.asarray(grid, dtype=np.int64).reshape(-1, 3),
    )
    return group, processed


def step_table(
    step: int,
    groups: Sequence[RolloutGroup],
    learner_logprobs: Sequence[Sequence[Sequence[float]]] | None,
    ref_logprobs: Sequence[Sequence[Sequence[float]]] | None,
) -> pa.Table:
    """A recorded step: its groups, with the learner's log-probabilities per group, completion and token."""
    rows = [
        {
            **group.model_dump(),
            "step": step,
            "learner_logprobs": None if learner_logprobs is None else learner_logprobs[index],
            "ref_logprobs": None if ref_logprobs is None else ref_logprobs[index],
        }
        for index, group in enumerate(groups)
    ]
    return pa.Table.from_pylist(rows, schema=STEP_SCHEMA)
