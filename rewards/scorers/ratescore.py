"""ratescore: does a report name the findings of its reference, also in other words, and deny what it denies?

Role: RaTEScore (Zhao et al. 2024, arXiv 2406.16845) with its published models and weights.
Input: answer and reference report. Output: harmonic mean of the two weighted entity similarities, 0-1.

Every entity looks for its best match alone, so repeating a right entity raises precision: ``repeated_entities`` shows
it, and the scorer repetition stands against it. An entity is compared by its first 30 tokens, as published:
``truncated_entities`` counts the answer's that have more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rewards.clinical.ratescore import Entities, entities, load_ratescore, reference_entities, similarity
from rewards.scorer import Results, ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError


class RatescoreParams(Settings):
    """Parameters of ratescore."""

    matrix: Literal["long", "short"] = Field(
        default="long", description="weights of the kinds of entities: fitted to ratings of long or of short reports"
    )
    no_entities_value: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="value where one side names nothing; the package gives 0.5, which pays an answer that says nothing",
    )


def f1(precision: float, recall: float) -> float:
    """Harmonic mean, at most 1; 0 where either is not positive (the package's may then be anything, -50 or +50)."""
    if precision <= 0.0 or recall <= 0.0:
        return 0.0
    return min(1.0, 2.0 * precision * recall / (precision + recall))


def _score(item: ScoreItem, answer: Entities, reference: Entities, params: RatescoreParams) -> Score | ScoreError:
    if not (item.reference.report or "").strip():
        return ScoreError(code="missing_input", message="ratescore needs a reference report that is not blank")
    counts = {
        "entities": len(answer.kinds),
        "reference_entities": len(reference.kinds),
        "repeated_entities": answer.repeated,
        "truncated_entities": answer.truncated,
    }
    if not len(answer.kinds) or not len(reference.kinds):
        # A blank answer is no agreement about nothing.
        value = params.no_entities_value if item.answer.strip() else 0.0
        return Score(value=value, details={"precision": 0.0, "recall": 0.0, **counts})
    precision = similarity(answer, reference, params.matrix)
    recall = similarity(reference, answer, params.matrix)
    return Score(value=f1(precision, recall), details={"precision": precision, "recall": recall, **counts})


def score(items: Sequence[ScoreItem], params: RatescoreParams) -> Results:
    """One score an item."""
    references = reference_entities([item.reference.report or "" for item in items])
    answers = entities([item.answer for item in items])
    return [
        _score(item, *pair, params) for item, pair in zip(items, zip(answers, references, strict=True), strict=True)
    ]


SCORER = Scorer(
    name="ratescore",
    version="1",
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=RatescoreParams,
    score=score,
    tier="clinical",
    load=load_ratescore,
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
    summary="RaTEScore: weighted similarity of the medical entities that two reports name",
)
