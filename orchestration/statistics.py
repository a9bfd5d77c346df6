"""Bootstrap intervals: how sure a mean, or a change of a mean, is.

Role: turns per-prompt numbers of an evaluation into a mean with its 95 % interval.
Input: plain numbers, optionally with the cluster (patient) that each belongs to. Output: ``Interval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.base import Noun

DRAWS = 2000  # resamples; the Monte Carlo error of a 95 % endpoint is then about 3 % of the interval's width
_INDICES_AT_ONCE = 1 << 20  # bounds the memory of a draw to 8 MiB whatever the sample's size


class Interval(Noun):
    """A mean, its 95 % bootstrap interval and the number of values behind it."""

    mean: float
    ci95: tuple[float, float] = Field(description="2.5th and 97.5th percentile of the resampled means")
    n: int = Field(ge=1, description="values (pairs for a difference)")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.ci95[0] > self.ci95[1]:
            raise ValueError("ci95 needs its lower end first")
        return self

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of 0."""
        return self.ci95[0] > 0.0 or self.ci95[1] < 0.0


def bootstrap_mean(
    values: Sequence[float], seed: int, draws: int = DRAWS, clusters: Sequence[str] | None = None
) -> Interval:
    """The mean of ``values`` with its percentile bootstrap interval.

    Args:
        values: one number a prompt; none may be missing.
        seed: of the resampling; the same seed gives the same interval.
        draws: resamples.
        clusters: the patient of each value. Given, whole patients are resampled, since the values of one patient
            are not independent (cluster bootstrap; Davison and Hinkley 1997, section 3.8).

    Raises:
        ValueError: no values, a value that is NaN or infinite, or clusters of another length.
    """
    values_N = _finite(values, "values")
    return _interval(values_N, _cluster_ids(clusters, len(values_N)), seed, draws)


def paired_bootstrap_difference(
    before: Sequence[float],
    after: Sequence[float],
    seed: int,
    clusters: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> Interval:
    """The mean of ``after - before``, paired by position, with its percentile bootstrap interval.

    Args:
        before: one number a prompt.
        after: the same prompts' numbers in the same order.
        seed: of the resampling.
        clusters: the patient of each prompt; whole patients are resampled.
        draws: resamples.

    Raises:
        ValueError: no pairs, lengths that differ, a value that is NaN or infinite, or clusters of another length.
    """
    before_N = _finite(before, "before")
    after_N = _finite(after, "after")
    if len(before_N) != len(after_N):
        raise ValueError(f"before and after must have the same length, not {len(before_N)} and {len(after_N)}")
    return _interval(after_N - before_N, _cluster_ids(clusters, len(after_N)), seed, draws)


def _finite(values: Sequence[float], name: str) -> NDArray[np.float64]:
    values_N = np.asarray(values, dtype=np.float64)
    if values_N.ndim != 1 or values_N.size == 0:
        raise ValueError(f"{name} must be a list of at least one number, not of shape {values_N.shape}")
    missing = int((~np.isfinite(values_N)).sum())
    if missing:
        # A missing score is an error upstream, never a number (promise 4): the caller leaves its prompt out.
        raise ValueError(f"{name} must be finite, but {missing} of {values_N.size} are NaN or infinite")
    return values_N


def _cluster_ids(clusters: Sequence[str] | None, count: int) -> NDArray[np.intp]:
    if clusters is None:
        return np.arange(count)
    if len(clusters) != count:
        raise ValueError(f"clusters must name one cluster a value: {len(clusters)} for {count} values")
    # Numbered in order of appearance, so that the names themselves can't change the result.
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)


def _interval(values_N: NDArray[np.float64], cluster_N: NDArray[np.intp], seed: int, draws: int) -> Interval:
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    sums_C = np.bincount(cluster_N, weights=values_N).astype(np.float64)
    counts_C = np.bincount(cluster_N).astype(np.float64)
    means_D = _resampled_means(sums_C, counts_C, np.random.default_rng(seed), draws)
    low, high = np.percentile(means_D, [2.5, 97.5])
    return Interval(mean=float(values_N.mean()), ci95=(float(low), float(high)), n=len(values_N))


def _resampled_means(
    sums_C: NDArray[np.float64], counts_C: NDArray[np.float64], rng: np.random.Generator, draws: int
) -> NDArray[np.float64]:
    """Means over values when clusters are drawn with replacement, [draws]."""
    clusters = len(sums_C)
    rows = max(1, _INDICES_AT_ONCE // clusters)
    means = []
    for start in range(0, draws, rows):
        drawn_RC = rng.integers(0, clusters, size=(min(rows, draws - start), clusters))
        means.append(sums_C[drawn_RC].sum(axis=1) / counts_C[drawn_RC].sum(axis=1))
    return np.concatenate(means)
