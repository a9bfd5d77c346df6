"""Grounding: what every scorer of boxes shares: parameters, the guarded sides of an item, counts, the empty case.

Role: keeps the files in scorers/ down to their formulas. Input: ScoreItems with reference boxes and a box format.
Output: Grounding (sides and counts); the value where neither side has a box; the scores by a formula over a Match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import Field

from rewards.box_matching import Match, Sides, guard, match_sides
from rewards.boxes import parse_boxes
from rewards.resources import Resources
from rewards.scorer import Results, ScoreItem
from schemas.base import Settings
from schemas.group import Score

_EMPTY_LIST = re.compile(r"\[\s*+\]")
# A denial stands alone: not in "abnormal", "note". "Can't" and "cannot" are left out: they begin a refusal.
_DENIAL = re.compile(
    r"(?<![^\W_])(?:no|not|none|nothing|neither|nor|never|nil|zero|without|absent|absence|lacks?|lacking|empty|negative"
    r"|normal|clear|unremarkable|free|(?:is|are|was|were|do|does|did|has|have)n['\u2019]t)(?![^\W_])",
    re.IGNORECASE,
)


class EmptyMatchParams(Settings):
    """The parameter of a scorer that compares two sets."""

    empty_match_value: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="value when neither side names anything; the paper gives 0, which punishes a right 'there is none'",
    )


class GroundingParams(EmptyMatchParams):
    """The parameters of every grounding scorer."""

    max_boxes: int = Field(
        default=50,
        ge=1,
        le=500,
        description="boxes matched per answer; more are false positives (no flooding)",
    )


class Grounding(NamedTuple):
    """One answer's boxes beside the reference's. ``counts`` are details of every grounding score."""

    sides: Sides
    counts: dict[str, float]
    neither_value: float | None
    """The value where neither side has a box; None where a formula must say."""


def says_none(answer: str) -> bool:
    """Whether an answer that names no box says that there is none to name. Linear in its length.

    It does with an empty list (``[]``, also in a fence or in an object), or with an English word that denies: "no",
    "none", "without", "normal", "clear", ... A blank answer, a full stop, invisible characters or talk of other things
    say nothing, and silence is no right "there is none".
    """
    return _EMPTY_LIST.search(answer) is not None or _DENIAL.search(answer) is not None


def read_grounding(item: ScoreItem, params: GroundingParams, silence_value: float = 0.0) -> Grounding:
    """Parses and guards one item's boxes.

    Args:
        item: one with what ``needs`` of a grounding scorer names.
        params: of the scorer.
        silence_value: where neither side has a box and the answer does not say so (``says_none``).
    """
    assert item.box_format is not None  # both are in needs
    assert item.reference.boxes is not None
    parsed = parse_boxes(item.answer, item.box_format)
    sides = guard(parsed, item.reference.boxes, params.max_boxes)
    counts: dict[str, float] = {
        "predicted": sides.written,
        "reference": len(sides.reference),
        "invalid": parsed.invalid,
        "duplicates": sides.duplicates,
        "repaired": parsed.repaired,
    }
    neither_value = None
    if not sides.written and not sides.reference:
        neither_value = params.empty_match_value if says_none(item.answer) else silence_value
    return Grounding(sides, counts, neither_value)


def scores(items: Sequence[ScoreItem], params: GroundingParams, formula: Callable[[Match], float]) -> Results:
    """One score an item, by a formula over the pairs with the greatest IoU sum, 0 for silence.

    Args:
        formula: the value of a match of which one side has a box.
    """
    results: Results = []
    for item in items:
        sides, counts, value = read_grounding(item, params)
        match = match_sides(sides)
        if value is None:
            value = formula(match)
        results.append(Score(value=value, details={"iou_sum": match.iou_sum, "matched": match.matched, **counts}))
    return results


def load_matching(_: Resources) -> None:
    """The ``load`` of a scorer that pairs boxes, so that the first request does not wait for the import."""
    import scipy.optimize  # noqa: F401
