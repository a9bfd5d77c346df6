import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import group_advantages

reward = st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3))
rewards_with_gaps = st.lists(st.none() | reward, min_size=1, max_size=16)


def test_known_values_with_the_unbiased_std():
    # mean 0.5, unbiased std sqrt((0.25 + 0.25) / 1) = 0.70710678
    assert group_advantages([0.0, 1.0]) == pytest.approx([-0.70710578, 0.70710578], abs=1e-8)
    # mean 2, unbiased std 1
    assert group_advantages([1.0, 2.0, 3.0]) == pytest.approx([-0.999999, 0.0, 0.999999], abs=1e-9)


@given(st.integers(2, 16), reward)
def test_equal_rewards_give_exactly_zero(size: int, value: float):
    assert group_advantages([value / 3] * size) == [0.0] * size


def test_a_completion_without_a_reward_stays_without_and_moves_nobody():
    alone = group_advantages([0.1, 0.9, 0.4])
    assert group_advantages([0.1, None, 0.9, 0.4, None]) == [alone[0], None, alone[1], alone[2], None]


@pytest.mark.parametrize("rewards", [[], [None], [0.3], [None, 0.3, None]])
def test_fewer_than_two_rewards_give_no_advantage(rewards: list[float | None]):
    assert group_advantages(rewards) == [None] * len(rewards)


@given(rewards_with_gaps, st.floats(-5, 5).map(lambda x: round(x, 2)))
def test_a_constant_added_to_all_rewards_changes_nothing(rewards: list[float | None], shift: float):
    before = group_advantages(rewards)
    after = group_advantages([None if r is None else r + shift for r in rewards])
    for left, right in zip(before, after, strict=True):
        assert (left is None) == (right is None)
        assert left is None or right == pytest.approx(left, abs=1e-6)


@given(rewards_with_gaps)
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards: list[float | None]):
    pairs = [(r, a) for r, a in zip(rewards, group_advantages(rewards), strict=True) if a is not None]
    assert sum(a for _, a in pairs) == pytest.approx(0.0, abs=1e-6)
    ordered = [a for _, a in sorted(pairs)]
    assert np.all(np.diff(ordered) >= -1e-9)
