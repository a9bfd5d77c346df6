from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.splits import hash_split, split_patients


def test_a_tenth_of_the_patients_is_held_out_twice() -> None:
    splits = split_patients([f"p{index}" for index in range(200)], seed=1)
    assert Counter(splits.values()) == {"train": 160, "validation": 20, "test": 20}


@given(st.integers(3, 40), st.integers(0, 1000))
def test_three_patients_or_more_fill_all_splits(count: int, seed: int) -> None:
    patients = [f"p{index}" for index in range(count)]
    splits = split_patients(patients, seed)
    assert list(splits) == patients
    assert set(splits.values()) == {"train", "validation", "test"}


def test_the_seed_decides_who_is_held_out() -> None:
    patients = [f"p{index}" for index in range(100)]
    assert split_patients(patients, 1) == split_patients(patients, 1)
    assert split_patients(patients, 1) != split_patients(patients, 2)


def test_a_hash_split_has_the_same_shares() -> None:
    counts = Counter(hash_split(f"patient {index}") for index in range(5000))
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert counts["validation"] / 5000 == pytest.approx(0.1, abs=0.02)


def test_a_hash_split_stays_what_it_was() -> None:
    # Known values: a change would move patients between training and test of data sets converted earlier.
    splits = {index: hash_split(f"p{index}") for index in range(12)}
    assert {index for index in splits if splits[index] == "test"} == {2}
    assert {index for index in splits if splits[index] == "validation"} == {10}
