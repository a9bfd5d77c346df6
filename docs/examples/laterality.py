"""laterality: does a report speak of the same sides as its reference? An example of a scorer in one file."""

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from rewards.references import REFERENCES
from rewards.scorer import Results, ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score

_SIDE = re.compile(r"\b(left|right|bilateral)\b", re.IGNORECASE)


class Params(Settings):
    """What a recipe may set under [reward.params.laterality]."""

    no_side_value: float = Field(default=1.0, ge=0.0, le=1.0, description="value when neither report names a side")


def sides(report: str) -> Counter[str]:
    """How often a report names each side."""
    return Counter(side.lower() for side in _SIDE.findall(report))


def score(items: Sequence[ScoreItem], params: Params) -> Results:
    """F1 of the named sides, one score an item."""
    results: Results = []
    for item in items:
        # A group's completions share a reference: what is made from it is made once and kept.
        truth = REFERENCES.get("sides", item.reference.report or "", sides)
        said = sides(item.answer)
        both, total = (said & truth).total(), said.total() + truth.total()
        value = 2.0 * both / total if total else params.no_side_value
        results.append(Score(value=value, details={"agreed": both, "said": said.total(), "true": truth.total()}))
    return results


SCORER = Scorer(
    name="laterality",
    version="1",
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=Params,
    score=score,
    summary="F1 of the sides (left, right, bilateral) that are named",
)
