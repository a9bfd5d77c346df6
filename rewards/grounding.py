"""Grounding: what every scorer of boxes shares: parameters, the guarded sides of an item, counts, the empty case.

Role: keeps the files in scorers/ down to their formulas. Input: a ScoreItem with reference boxes and a box format.
Output: Grounding (sides and counts); the value where neither side has a box.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from rewards.box_matching import Sides, guard
from rewards.boxes import parse_boxes
from rewards.resources import Resources
from rewards.scorer import ScoreItem
from schemas.base import Settings


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


def read_grounding(item: ScoreItem, params: GroundingParams, silence_value: float = 0.0) -> Grounding:
    """Parses and guards one item's boxes.

    Args:
        item: one with what ``needs`` of a grounding scorer names.
        params: of the scorer.
        silence_value: for a blank answer where the reference has no box: it says nothing, so it is no right
            "there is none".
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
        neither_value = params.empty_match_value if item.answer else silence_value
    return Grounding(sides, counts, neither_value)


def load_matching(_: Resources) -> None:
    """The ``load`` of a scorer that pairs boxes, so that the first request does not wait for the import."""
    import scipy.optimize  # noqa: F401
