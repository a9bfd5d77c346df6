from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_cases import make_prompt

from prompts.source import PromptSource
from schemas.errors import DataError

PROMPTS = [make_prompt(index) for index in range(30)]
counts, seeds = st.integers(1, 30), st.integers(0, 2**31)


def take(source: PromptSource, count: int) -> list[tuple[str, int]]:
    return [(prompt.prompt_id, epoch) for prompt, epoch in (source.next() for _ in range(count))]


@given(counts, seeds)
def test_every_epoch_is_a_permutation_of_all_prompts(count: int, seed: int) -> None:
    source = PromptSource(PROMPTS[:count], seed)
    for epoch in range(3):
        issued = take(source, count)
        assert sorted(name for name, _ in issued) == sorted(prompt.prompt_id for prompt in PROMPTS[:count])
        assert {number for _, number in issued} == {epoch}


@given(counts, seeds, st.integers(0, 100), st.integers(0, 50))
def test_a_restored_source_goes_on_as_the_old_one(count: int, seed: int, issued: int, ahead: int) -> None:
    source = PromptSource(PROMPTS[:count], seed)
    take(source, issued)
    state = source.state()
    assert state["cursor"] == issued
    restored = PromptSource(PROMPTS[:count], seed)
    take(restored, ahead)
    restored.restore(state)
    assert take(restored, 40) == take(source, 40)


def test_a_state_can_be_reached_far_ahead_at_once() -> None:
    source = PromptSource(PROMPTS, 0)
    source.restore({**source.state(), "cursor": 30 * 10**9 + 7})
    assert source.next()[1] == 10**9


def test_epochs_and_seeds_differ_in_order() -> None:
    source = PromptSource(PROMPTS, 0)
    first, second = ([name for name, _ in take(source, 30)] for _ in range(2))
    assert first != second
    assert [name for name, _ in take(PromptSource(PROMPTS, 1), 30)] != first


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (PromptSource(PROMPTS, 1), "seed"),
        (PromptSource(PROMPTS[:-1], 0), "prompts"),
        (PromptSource([*PROMPTS[:-1], make_prompt(99)], 0), "digest"),
    ],
)
def test_a_state_of_other_prompts_or_seed_is_refused(other: PromptSource, key: str) -> None:
    with pytest.raises(DataError, match=key):
        PromptSource(PROMPTS, 0).restore(other.state())


def test_no_prompt_is_a_data_error() -> None:
    with pytest.raises(DataError, match="at least one"):
        PromptSource([], 0)
