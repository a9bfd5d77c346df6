"""Scoring: from the items of several requests to scores and errors, scorer by scorer.

Role: the named border at which a scorer's exception becomes an error entry; pure, no HTTP, runs in a worker process.
Input: Slices (items of one request, the scorers that each gets, parameters). Output: an Outcome an item.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rewards.scorer import Results, ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError

_log = logging.getLogger(__name__)


class Slice(NamedTuple):
    """Items of one request that are scored in one place.

    Attributes:
        names: per item, the scorers that it gets.
        params: scorer -> its parameters, for every name in ``names``.
    """

    items: Sequence[ScoreItem]
    names: Sequence[tuple[str, ...]]
    params: Mapping[str, Settings]

    def part(self, indexes: Sequence[int]) -> Slice:
        """Some of the items, with what belongs to them."""
        return Slice([self.items[i] for i in indexes], [self.names[i] for i in indexes], self.params)


@dataclass(slots=True)
class Outcome:
    """What the scorers made of one item."""

    scores: dict[str, Score] = field(default_factory=dict)
    errors: dict[str, ScoreError] = field(default_factory=dict)

    def add(self, name: str, result: Score | ScoreError) -> None:
        """Files a scorer's result where it belongs."""
        if isinstance(result, Score):
            self.scores[name] = result
        else:
            self.errors[name] = result


@dataclass(slots=True)
class Cost:
    """What a scorer took: seconds for so many items."""

    seconds: float = 0.0
    items: int = 0


def refusal(scorer: Scorer[Settings], item: ScoreItem) -> ScoreError | None:
    """Why a scorer can't be asked about an item at all."""
    if item.task not in scorer.tasks:
        return ScoreError(code="wrong_task", message=f"{scorer.name} does not score the task {item.task}")
    missing = [need for need in scorer.needs if item.lacks(need)]
    if missing:
        return ScoreError(code="missing_input", message=f"{scorer.name} needs {', '.join(missing)}")
    return None


def failure(scorer: Scorer[Settings], item: ScoreItem, error: Exception) -> ScoreError:
    """The entry for a scorer that raised."""
    # Only the type: an exception's message may quote the text that it choked on.
    kind = type(error).__name__
    _log.warning("scorer %s failed for one item of %d characters: %s", scorer.name, len(item.completion), kind)
    return ScoreError(code="scorer_failed", message=f"{scorer.name} raised {kind}")


def _run(scorer: Scorer[Settings], items: Sequence[ScoreItem], params: Settings) -> Results:
    assert scorer.score is not None  # judges are asked elsewhere
    try:
        results = scorer.score(items, params)
        if len(results) != len(items):
            raise ValueError(f"{len(results)} results for {len(items)} items")
        if not all(isinstance(result, (Score, ScoreError)) for result in results):
            raise TypeError("a result that is neither a Score nor a ScoreError")
        return results
    except Exception as error:  # noqa: BLE001 - the border: any bug of any scorer is an error entry, never a number
        if len(items) > 1:
            # One bad item must not cost the others their scores.
            return [result for item in items for result in _run(scorer, [item], params)]
        return [failure(scorer, items[0], error)]


def score_batch(scorer: Scorer[Settings], items: Sequence[ScoreItem], params: Settings) -> Results:
    """One result an item, in order; never raises for what a scorer does."""
    results: list[Score | ScoreError | None] = [refusal(scorer, item) for item in items]
    asked = [index for index, refused in enumerate(results) if refused is None]
    if asked:
        for index, result in zip(asked, _run(scorer, [items[i] for i in asked], params), strict=True):
            results[index] = result
    return [result for result in results if result is not None]


def score_slices(
    scorers: Mapping[str, Scorer[Settings]], slices: Sequence[Slice]
) -> tuple[list[list[Outcome]], dict[str, Cost]]:
    """Every item of every slice by its scorers; items of all slices with equal parameters are one batch.

    Returns:
        An outcome per item per slice, and what each scorer cost.
    """
    outcomes = [[Outcome() for _ in part.items] for part in slices]
    places: defaultdict[tuple[str, Settings], list[tuple[int, int]]] = defaultdict(list)
    for number, part in enumerate(slices):
        for index, names in enumerate(part.names):
            for name in names:
                places[name, part.params[name]].append((number, index))
    costs: defaultdict[str, Cost] = defaultdict(Cost)
    for (name, params), chosen in places.items():
        started = time.perf_counter()
        results = score_batch(scorers[name], [slices[number].items[index] for number, index in chosen], params)
        cost = costs[name]
        cost.seconds += time.perf_counter() - started
        cost.items += len(chosen)
        for (number, index), result in zip(chosen, results, strict=True):
            outcomes[number][index].add(name, result)
    return outcomes, dict(costs)
