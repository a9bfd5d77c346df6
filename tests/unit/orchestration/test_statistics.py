from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestration.statistics import Interval, bootstrap_mean, paired_bootstrap_difference

numbers = st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=30)


def _scipy_interval(values: np.ndarray) -> tuple[float, float]:
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(99), vectorized=True
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def test_the_interval_of_a_mean_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).beta(2.0, 3.0, size=80)
    ours = bootstrap_mean(values.tolist(), seed=1, draws=20_000)
    low, high = _scipy_interval(values)
    # Two independent resamplings of 20,000 draws: their endpoints differ by well under 3 % of the width.
    assert ours.ci95[0] == pytest.approx(low, abs=0.03 * (high - low))
    assert ours.ci95[1] == pytest.approx(high, abs=0.03 * (high - low))
    assert ours.mean == pytest.approx(values.mean(), abs=1e-12)
    assert ours.n == 80


def test_a_paired_difference_agrees_with_scipys_bootstrap_of_the_differences():
    rng = np.random.default_rng(3)
    before = rng.uniform(size=60)
    after = before + rng.normal(0.05, 0.1, size=60)
    ours = paired_bootstrap_difference(before.tolist(), after.tolist(), seed=4, draws=20_000)
    low, high = _scipy_interval(after - before)
    assert ours.ci95 == (
        pytest.approx(low, abs=0.03 * (high - low)),
        pytest.approx(high, abs=0.03 * (high - low)),
    )


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(400):
        low, high = bootstrap_mean(rng.normal(1.0, 2.0, size=60).tolist(), seed=trial, draws=500).ci95
        covered += low <= 1.0 <= high
    # Binomial(400, 0.95) lies in [0.90, 0.98] with probability above 0.999; the percentile method loses about 0.01.
    assert 0.90 <= covered / 400 <= 0.98


def test_resampling_patients_covers_where_resampling_prompts_does_not():
    rng = np.random.default_rng(6)
    by_patient = by_prompt = 0
    clusters = [f"p{patient}" for patient in range(40) for _ in range(6)]
    for trial in range(200):
        values = np.repeat(rng.normal(size=40), 6) + 0.1 * rng.normal(size=240)
        low, high = bootstrap_mean(values.tolist(), seed=trial, draws=400, clusters=clusters).ci95
        by_patient += low <= 0.0 <= high
        low, high = bootstrap_mean(values.tolist(), seed=trial, draws=400).ci95
        by_prompt += low <= 0.0 <= high
    assert by_patient / 200 >= 0.88
    assert by_prompt / 200 <= 0.75


def test_clusters_of_one_prompt_each_change_nothing():
    values = np.random.default_rng(7).normal(size=25).tolist()
    assert bootstrap_mean(values, seed=8, clusters=[f"p{i}" for i in range(25)]) == bootstrap_mean(values, seed=8)


def test_patients_of_unequal_size_are_weighed_by_their_prompts():
    # Patient a: 1, 1, 1; patient b: 0. Every draw holds two patients, so its mean is 1, 3/4 or 0.
    interval = bootstrap_mean([1.0, 1.0, 1.0, 0.0], seed=0, clusters=["a", "a", "a", "b"])
    assert interval.mean == 0.75
    assert interval.ci95 == (0.0, 1.0)


def test_pairing_makes_a_constant_gain_certain_however_prompts_differ():
    before = np.random.default_rng(9).uniform(size=30)
    interval = paired_bootstrap_difference(before.tolist(), (before + 0.25).tolist(), seed=0)
    assert interval.ci95 == (pytest.approx(0.25), pytest.approx(0.25))
    assert interval.excludes_zero


@given(numbers, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_interval_lies_within_the_values_and_repeats_with_its_seed(values: list[float], seed: int):
    interval = bootstrap_mean(values, seed, draws=50)
    slack = 1e-9 * max(1.0, max(abs(v) for v in values))
    assert min(values) - slack <= interval.ci95[0] <= interval.ci95[1] <= max(values) + slack
    assert interval == bootstrap_mean(values, seed, draws=50)


@given(numbers)
@settings(max_examples=40, deadline=None)
def test_exchanging_before_and_after_mirrors_the_interval(values: list[float]):
    other = [value * 0.5 + 1.0 for value in values]
    there = paired_bootstrap_difference(values, other, seed=1, draws=101)
    back = paired_bootstrap_difference(other, values, seed=1, draws=101)
    assert back.mean == pytest.approx(-there.mean, abs=1e-9)
    assert back.ci95 == (pytest.approx(-there.ci95[1], abs=1e-9), pytest.approx(-there.ci95[0], abs=1e-9))


def test_the_draws_do_not_depend_on_how_many_fit_into_memory_at_once(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(10).normal(size=17).tolist()
    whole = bootstrap_mean(values, seed=2, draws=200)
    monkeypatch.setattr("orchestration.statistics._INDICES_AT_ONCE", 50)
    assert bootstrap_mean(values, seed=2, draws=200) == whole


@pytest.mark.parametrize("bad", [[], [0.1, float("nan")], [float("inf")], [[0.1], [0.2]]])
def test_missing_values_are_refused_and_never_averaged(bad: list[float]):
    with pytest.raises(ValueError, match="values must be"):
        bootstrap_mean(bad, seed=0)
    with pytest.raises(ValueError, match="before must be"):
        paired_bootstrap_difference(bad, [0.0] * len(bad), seed=0)


def test_pairs_and_clusters_must_match_in_length():
    with pytest.raises(ValueError, match="same length, not 2 and 1"):
        paired_bootstrap_difference([0.0, 1.0], [0.0], seed=0)
    with pytest.raises(ValueError, match="one cluster a value: 1 for 2"):
        bootstrap_mean([0.0, 1.0], seed=0, clusters=["a"])
    with pytest.raises(ValueError, match="draws"):
        bootstrap_mean([0.0, 1.0], seed=0, draws=0)


def test_an_interval_is_written_as_mean_ci95_and_n():
    interval = bootstrap_mean([0.0, 1.0], seed=0)
    written = json.loads(interval.model_dump_json())
    assert written == {"mean": 0.5, "ci95": [0.0, 1.0], "n": 2}
    assert Interval.model_validate(written) == interval
    assert not interval.excludes_zero


def test_an_interval_with_its_ends_exchanged_is_refused():
    with pytest.raises(ValueError, match="lower end first"):
        Interval(mean=0.0, ci95=(1.0, -1.0), n=3)
