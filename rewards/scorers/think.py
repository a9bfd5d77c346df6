"""think: did a thinking run's completion think, stop thinking, and answer?

Role: a guard, and the place of the paper's floor for a missing ``</think>`` (arXiv 2512.10691: -3 on RadCliQ's scale).
Input: a completion, and whether the run asks for a trace. Output: 1 or 0, or the floor where the trace never ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from rewards.scorer import Results, ScoreItem, Scorer
from rewards.text import THINK_END, thinks_as_asked
from schemas.base import Settings
from schemas.group import Score

_LOWEST_FLOOR = -10.0


class ThinkParams(Settings):
    """Parameters of think."""

    floor: float = Field(
        default=0.0,
        ge=_LOWEST_FLOOR,
        le=0.0,
        description="value of a thinking run's completion without </think>; -3 with a weight of 1 is the paper's floor "
        "beside radcliq_v1, whose worst reward is about -2.5",
    )


def _score(item: ScoreItem, params: ThinkParams) -> Score:
    ends = item.completion.count(THINK_END)
    if item.thinking and not ends:
        value = params.floor
    else:
        # Silence is no answer: it must not be the easiest way to the reward.
        value = float(thinks_as_asked(item.completion, item.thinking) and bool(item.answer))
    return Score(value=value, details={"trace_ends": ends, "answered": float(bool(item.answer))})


def score(items: Sequence[ScoreItem], params: ThinkParams) -> Results:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="think",
    version="1",
    tasks=frozenset({"report", "grounding", "classification", "conversation"}),
    range=(_LOWEST_FLOOR, 1.0),
    direction="higher",
    needs=(),
    params=ThinkParams,
    score=score,
    summary="1 where a thinking run has one trace and one answer, and any other run no trace; else 0, or the floor",
)
