"""repetition: how much of a completion says again what it has said already?

Role: a guard against loops, which n-gram precision and long answers otherwise pay for.
Input: a completion. Output: the share of its n-grams that occurred before in it, 0-1; lower is better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from rewards.scorer import Results, ScoreItem, Scorer
from rewards.text import THINK_END
from schemas.base import Settings
from schemas.group import Score

# A mark counts as a word: else a loop of punctuation or emoji would be no text at all.
_WORD = re.compile(r"\w+|[^\w\s]")


class RepetitionParams(Settings):
    """Parameters of repetition."""

    n: int = Field(
        default=4,
        ge=1,
        le=20,
        description="words and marks of an n-gram; shorter ones repeat in any good report ('no evidence of')",
    )


def repetition(words: Sequence[str], n: int) -> float:
    """1 - distinct / total n-grams; 0 for fewer than n words."""
    total = len(words) - n + 1
    if total <= 0:
        return 0.0
    return 1.0 - len(set(zip(*(words[start:] for start in range(n)), strict=False))) / total


def _score(item: ScoreItem, params: RepetitionParams) -> Score:
    # Apart, since a good answer says again what its trace found; both, since a trace that loops never gets to answer.
    trace, _, answer = item.completion.rpartition(THINK_END)
    shares = {
        part: repetition(_WORD.findall(text.lower()), params.n) for part, text in (("trace", trace), ("answer", answer))
    }
    return Score(value=max(shares.values()), details=shares)


def score(items: Sequence[ScoreItem], params: RepetitionParams) -> Results:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="repetition",
    version="2",  # 2: punctuation counts
    tasks=frozenset({"report", "grounding", "classification", "conversation"}),
    range=(0.0, 1.0),
    direction="lower",
    needs=(),
    params=RepetitionParams,
    score=score,
    summary="share of n-grams that repeat earlier ones, in the trace or in the answer, whichever is worse",
)
