"""Scoring: from items to scores and errors, scorer by scorer.

Role: the named border at which a scorer's exception becomes an error entry; pure, no HTTP, runs in a worker thread.
Input: ScoreItems, which scorers each gets, parameters, which scorers could not be loaded. Output: an Outcome an item.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rewards.scorer import ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What the scorers made of one item."""

    scores: dict[str, Score] = field(default_factory=dict)
    errors: dict[str, ScoreError] = field(default_factory=dict)


def _refusal(scorer: Scorer[Settings], item: ScoreItem) -> ScoreError | None:
    """Why a scorer can't be asked about an item at all."""
    if item.task not in scorer.tasks:
        return ScoreError(code="wrong_task", message=f"{scorer.name} does not score the task {item.task}")
    missing = [need for need in scorer.needs if item.lacks(need)]
    if missing:
        return ScoreError(code="missing_input", message=f"{scorer.name} needs {', '.join(missing)}")
    return None


def _run(scorer: Scorer[Settings], items: Sequence[ScoreItem], params: Settings) -> list[Score | ScoreError]:
    assert scorer.score is not None  # judges are not asked here
    try:
        results = scorer.score(items, params)
        if len(results) != len(items):
            raise ValueError(f"{len(results)} results for {len(items)} items")
        return results
    except Exception as error:  # noqa: BLE001 - the border: any bug of any scorer is an error entry, never a number
        if len(items) > 1:
            # One bad item must not cost the others their scores.
            return [result for item in items for result in _run(scorer, [item], params)]
        # Only the type: an exception's message may quote the text that it choked on.
        kind = type(error).__name__
        _log.warning("scorer %s failed for one item of %d characters: %s", scorer.name, len(items[0].completion), kind)
        return [ScoreError(code="scorer_failed", message=f"{scorer.name} raised {kind}")]


def score_batch(scorer: Scorer[Settings], items: Sequence[ScoreItem], params: Settings) -> list[Score | ScoreError]:
    """One result an item, in order; never raises for what a scorer does."""
    results: list[Score | ScoreError | None] = [_refusal(scorer, item) for item in items]
    asked = [index for index, refusal in enumerate(results) if refusal is None]
    if asked:
        for index, result in zip(asked, _run(scorer, [items[i] for i in asked], params), strict=True):
            results[index] = result
    return [result for result in results if result is not None]


def score_items(
    scorers: Mapping[str, Scorer[Settings]],
    items: Sequence[ScoreItem],
    names: Sequence[Sequence[str]],
    params: Mapping[str, Settings],
    unavailable: Mapping[str, ScoreError],
) -> list[Outcome]:
    """Every item by its scorers.

    Args:
        scorers: those that may be asked, by name.
        items: what to score.
        names: per item, the scorers that it gets.
        params: scorer -> its parameters.
        unavailable: scorers that are not ready, with the error that an item gets instead of a score.
    """
    outcomes = [Outcome() for _ in items]
    for name in sorted({name for item_names in names for name in item_names}):
        chosen = [index for index, item_names in enumerate(names) if name in item_names]
        results: Sequence[Score | ScoreError]
        if name in unavailable:
            results = [unavailable[name]] * len(chosen)
        else:
            results = score_batch(scorers[name], [items[index] for index in chosen], params[name])
        for index, result in zip(chosen, results, strict=True):
            if isinstance(result, Score):
                outcomes[index].scores[name] = result
            else:
                outcomes[index].errors[name] = result
    return outcomes
