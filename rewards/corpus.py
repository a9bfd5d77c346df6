"""Corpus: numbers about many reports at once, from the scores of each.

Role: pure functions for evaluation: CheXpert F1 over a corpus, and how far a mean can be trusted.
Input: counts and masks from chexpert_f1's details; any scorer's values. Output: floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from rewards.chexpert_vocabulary import OBSERVATIONS


class Counts(NamedTuple):
    """Observations of one report by ``chexpert_f1``, under the names of its details."""

    true_positives: float
    false_positives: float
    false_negatives: float


class Masks(NamedTuple):
    """The positive observations of one report and of its reference: bit i stands for ``OBSERVATIONS[i]``."""

    predicted: int
    reference: int


class Interval(NamedTuple):
    """A mean and where it would lie with other reports."""

    mean: float
    low: float
    high: float


def micro_f1(counts: Iterable[Counts]) -> float:
    """2tp / (2tp + fp + fn) of the sums over all reports: every positive weighs the same, so common findings rule.

    1 where no report on either side has a positive, as for a single report.
    """
    totals = [sum(column) for column in zip(*counts, strict=True)] or [0.0, 0.0, 0.0]
    true, false_positives, false_negatives = totals
    asked = 2.0 * true + false_positives + false_negatives
    return 2.0 * true / asked if asked else 1.0


def observation_f1(masks: Iterable[Masks]) -> dict[str, float]:
    """F1 of each observation that is positive in any report or reference."""
    pairs = np.array([tuple(pair) for pair in masks], dtype=np.int64).reshape(-1, 2)
    bits_RS = 1 << np.arange(len(OBSERVATIONS))
    predicted_RO, reference_RO = (pairs[:, [side]] & bits_RS != 0 for side in (0, 1))
    true_O = (predicted_RO & reference_RO).sum(axis=0)
    asked_O = predicted_RO.sum(axis=0) + reference_RO.sum(axis=0)
    return {
        name: float(2.0 * true / asked)
        for name, true, asked in zip(OBSERVATIONS, true_O, asked_O, strict=True)
        if asked
    }


def macro_f1(masks: Iterable[Masks]) -> float:
    """Mean of the observations' F1: every observation weighs the same, so rare findings count.

    An observation that is positive nowhere says nothing about the policy and is left out; scikit-learn's macro average
    counts it as 0, which is this value times (observations that are positive somewhere) / 14. 1 where none is.
    """
    values = observation_f1(masks).values()
    return sum(values) / len(values) if values else 1.0


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean with its percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Reports are drawn one by one with replacement, as if no patient had two of them. The same arguments give the same
    interval.

    Raises:
        ValueError: there are no values, or ``confidence`` is not between 0 and 1.
    """
    if not values:
        raise ValueError("values: there must be at least one; an empty corpus has no mean")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: must be between 0 and 1, not {confidence}")
    values_R = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(seed)
    # One resample at a time: all at once would take resamples x reports of memory.
    means_S = np.array([values_R[random.integers(0, len(values_R), len(values_R))].mean() for _ in range(resamples)])
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means_S, (tail, 1.0 - tail))
    return Interval(float(values_R.mean()), float(low), float(high))
