import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.group_attention import (
    predicting_positions,
    segment_numbers,
    shared_prefix_mask,
    shared_prefix_positions,
)

lengths = st.lists(st.integers(0, 4), max_size=4)


def test_a_small_row_by_hand():
    segments_L = segment_numbers(2, [1, 2], 6)
    assert segments_L.tolist() == [0, 0, 1, 2, 2, -1]
    mask_LL = shared_prefix_mask(segments_L[None])[0, 0].int()
    assert mask_LL.tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert predicting_positions(2, [1, 2]).tolist() == [1, 1, 3]


@given(st.integers(1, 5), lengths, st.integers(0, 3))
def test_a_completion_sees_what_it_would_see_in_a_row_of_its_own(prompt: int, completions: list[int], padding: int):
    segments_L = segment_numbers(prompt, completions, prompt + sum(completions) + padding)
    mask_LL = shared_prefix_mask(segments_L[None])[0, 0]
    for number, length in enumerate(completions, start=1):
        own = torch.cat([torch.arange(prompt), torch.nonzero(segments_L == number)[:, 0]])
        assert torch.equal(mask_LL[own][:, own], torch.ones(len(own), len(own)).tril().bool())
        others = torch.tensor([i for i in range(len(segments_L)) if i not in own.tolist()], dtype=torch.int64)
        assert len(own) == prompt + length
        assert not mask_LL[own][:, others].any()


@given(st.integers(1, 5), lengths, st.integers(0, 3))
def test_no_position_is_blind(prompt: int, completions: list[int], padding: int):
    segments_L = segment_numbers(prompt, completions, prompt + sum(completions) + padding)
    assert shared_prefix_mask(segments_L[None]).any(dim=-1).all()


@given(st.integers(1, 5), lengths)
def test_every_completion_counts_on_from_the_prompts_maximum(prompt: int, completions: list[int]):
    prompt_positions_3P = torch.randint(0, 9, (3, prompt))
    row_length = prompt + sum(completions) + 1
    positions_3L = shared_prefix_positions(prompt_positions_3P, completions, row_length)
    assert torch.equal(positions_3L[:, :prompt], prompt_positions_3P)
    first = int(prompt_positions_3P.max()) + 1
    counted = [p for length in completions for p in range(first, first + length)]
    assert positions_3L[:, prompt:].tolist() == [[*counted, 0]] * 3


@given(st.integers(1, 5), lengths)
def test_each_token_is_predicted_by_the_one_before_it_in_its_own_sequence(prompt: int, completions: list[int]):
    predictors = predicting_positions(prompt, completions).tolist()
    start, index = prompt, 0
    for length in completions:
        own = [*range(prompt), *range(start, start + length)]
        for offset in range(length):
            assert predictors[index] == own[prompt + offset - 1]
            index += 1
        start += length
    assert index == len(predictors)
