"""Every noun comes back from Arrow, and from a parquet file, exactly as it went in."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noun_strategies import conversations, groups, processed_prompts, prompts
from pydantic import ValidationError

from schemas import arrow
from schemas.group import RolloutGroup
from schemas.processed import ProcessedPrompt
from schemas.prompt import Conversation, Prompt

thorough = settings(max_examples=40)


def through_parquet(table: pa.Table) -> pa.Table:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return pq.read_table(io.BytesIO(buffer.getvalue()))


def through_ipc(table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


@thorough
@given(st.lists(prompts, max_size=3))
def test_prompts_come_back(some: list[Prompt]) -> None:
    table = arrow.prompts_to_table(some)
    assert table.schema.equals(arrow.PROMPT_SCHEMA)
    assert arrow.table_to_prompts(through_parquet(table)) == some


@thorough
@given(st.lists(conversations, max_size=3))
def test_conversations_come_back(some: list[Conversation]) -> None:
    table = arrow.conversations_to_table(some)
    assert table.schema.equals(arrow.CONVERSATION_SCHEMA)
    assert arrow.table_to_conversations(through_parquet(table)) == some


@thorough
@given(st.lists(groups, max_size=2))
def test_groups_come_back(some: list[RolloutGroup]) -> None:
    table = arrow.groups_to_table(some)
    assert table.schema.equals(arrow.GROUP_SCHEMA)
    assert arrow.table_to_groups(through_parquet(table)) == some


@thorough
@given(groups, processed_prompts())
def test_a_travelling_group_brings_its_tensors_and_their_fingerprint(
    group: RolloutGroup, processed: ProcessedPrompt
) -> None:
    back, tensors = arrow.unpack_group(through_ipc(arrow.pack_group(group, processed)))
    assert back == group
    assert tensors.fingerprint() == processed.fingerprint()
    for one, other in (
        (tensors.input_ids_P, processed.input_ids_P),
        (tensors.pixel_values_ND, processed.pixel_values_ND),
        (tensors.image_grid_thw_I3, processed.image_grid_thw_I3),
    ):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.array_equal(one, other)
    # A read-only view: a step of thousands of films is not copied on arrival.
    assert not tensors.pixel_values_ND.flags.owndata
    assert not tensors.pixel_values_ND.flags.writeable


@thorough
@given(st.lists(groups, min_size=1, max_size=2), st.booleans())
def test_a_recorded_step_keeps_its_groups_and_the_learners_numbers(some: list[RolloutGroup], with_ref: bool) -> None:
    learner = [[[-0.5 * token for token in range(len(c.token_ids))] for c in group.completions] for group in some]
    table = through_parquet(arrow.step_table(7, some, learner, learner if with_ref else None))
    assert arrow.table_to_groups(table) == some
    assert table["step"].to_pylist() == [7] * len(some)
    assert table["learner_logprobs"].to_pylist() == learner
    assert table["ref_logprobs"].to_pylist() == (learner if with_ref else [None] * len(some))


def test_a_row_that_is_no_prompt_is_refused() -> None:
    row = {field.name: None for field in arrow.PROMPT_SCHEMA}
    nullable = pa.schema([field.with_nullable(True) for field in arrow.PROMPT_SCHEMA])
    with pytest.raises(ValidationError):
        arrow.table_to_prompts(pa.Table.from_pylist([row], schema=nullable))
