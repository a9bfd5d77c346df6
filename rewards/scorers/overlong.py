"""overlong: a penalty that grows over the last tokens before the length limit.

Role: DAPO's soft overlong punishment (arXiv 2503.14476, section 3.4), felt before an answer is cut off.
Input: the completion's number of tokens. Output: 0 while there is room, falling to -1 at the limit and beyond.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from rewards.scorer import Results, ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score


class OverlongParams(Settings):
    """Parameters of overlong."""

    max_tokens: int = Field(
        default=1024, ge=1, description="tokens; at this length the penalty is -1. The run's sampling limit or less"
    )
    buffer: int = Field(
        default=128,
        ge=1,
        description="tokens before max_tokens over which the penalty grows from 0 to -1; at most all of them",
    )


def overlong(tokens: int, max_tokens: int, buffer: int) -> float:
    """0 up to max_tokens - buffer, -1 from max_tokens on, a straight line between."""
    return max(-1.0, min(0.0, (max_tokens - buffer - tokens) / buffer))


def _score(item: ScoreItem, params: OverlongParams) -> Score:
    assert item.token_count is not None  # it is in needs
    return Score(value=overlong(item.token_count, params.max_tokens, min(params.buffer, params.max_tokens)))


def score(items: Sequence[ScoreItem], params: OverlongParams) -> Results:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="overlong",
    version="1",
    tasks=frozenset({"report", "grounding", "classification", "conversation"}),
    range=(-1.0, 0.0),
    direction="higher",
    needs=("token_count",),
    params=OverlongParams,
    score=score,
    summary="DAPO's soft overlong penalty: 0 while there is room, -1 at max_tokens",
)
