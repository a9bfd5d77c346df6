"""Corpus: numbers about many reports at once, from the scores of each.

Role: pure functions for evaluation: CheXpert F1 over a corpus, weighted by finding or by observation.
Input: counts and masks from chexpert_f1's details. Output: floats.
"""

from __future__ import annotations

from collections.abc import Iterable
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
