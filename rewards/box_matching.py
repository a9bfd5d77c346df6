"""Box matching: from two sets of boxes to their overlaps and to the best one-to-one pairs.

Role: the geometry and the guards under every grounding scorer. Pure functions.
Input: ParsedBoxes, reference boxes. Output: Sides (what may be matched), IoU, Match (pairs, counts, IoU sum).

Lists of floats, not arrays, for the one to five boxes of an ordinary answer: there numpy's calls cost more than the
arithmetic. Guarded references are not cached: the key would be the boxes themselves, and looking them up costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.boxes import ParsedBoxes
from schemas.prompt import Box

Corners = tuple[float, float, float, float]
Rows = list[list[float]]

_FEW_PAIRS = 64  # up to here, lists are faster than arrays
# What one more pair is worth: it only decides between matchings of equal sum; else the order of the boxes would decide.
_PAIR_BONUS = 1e-9


class Sides(NamedTuple):
    """The two sides of an answer after the guards.

    Attributes:
        predicted: distinct valid boxes in the order of the answer, at most ``max_boxes``.
        reference: distinct reference boxes.
        disagreeing: pairs (row, column) whose labels differ.
        written: everything that was written as a box: invalid ones, duplicates and those over the limit included.
        duplicates: exact duplicates among ``written``.
    """

    predicted: list[Corners]
    reference: list[Corners]
    disagreeing: list[tuple[int, int]]
    written: int
    duplicates: int


class Match(NamedTuple):
    """Predictions against references.

    Attributes:
        iou_sum: t, the sum of IoU over the kept pairs.
        matched: V, the number of kept pairs.
        predicted: everything that was written as a box.
        reference: the number of distinct reference boxes.
        duplicates: exact duplicates among ``predicted``.
    """

    iou_sum: float
    matched: int
    predicted: int
    reference: int
    duplicates: int

    @property
    def false_positives(self) -> int:
        return self.predicted - self.matched


def _name(label: str | None) -> str | None:
    return " ".join(label.lower().split()) or None if label else None


def _distinct_labelled(boxes: Iterable[Box]) -> list[tuple[Corners, str | None]]:
    """The first of each set of duplicates: the same corners, and not two different labels."""
    names: dict[Corners, dict[str | None, None]] = {}
    for box in boxes:
        names.setdefault(box.corners, {})[_name(box.label)] = None
    # Beside a named box, an unnamed one at the same place is its duplicate, whichever comes first.
    return [
        (corners, name) for corners, named in names.items() for name in named if name is not None or len(named) == 1
    ]


def guard(parsed: ParsedBoxes, reference: Sequence[Box], max_boxes: int) -> Sides:
    """The boxes of an answer and of its reference that may be matched, under the guards against flooding.

    - An exact duplicate of another box is never matched: it is a false positive. A reference named twice is one.
    - Only the first ``max_boxes`` distinct boxes are matched; the rest are false positives.
    - Where both sides of a pair name a label, the labels must agree (case and spaces apart). Boxes at one place with
      different labels are different boxes; where only one side names labels, they are one.
    """
    boxes = parsed.boxes
    disagreeing: list[tuple[int, int]] = []
    if any(box.label for box in boxes) and any(box.label for box in reference):
        named = _distinct_labelled(boxes)
        duplicates = len(boxes) - len(named)
        named = named[:max_boxes]
        named_reference = _distinct_labelled(reference)
        for row, (_, name) in enumerate(named):
            for column, (_, other) in enumerate(named_reference):
                if name != other and name is not None and other is not None:
                    disagreeing.append((row, column))
        predicted = [corners for corners, _ in named]
        truth = [corners for corners, _ in named_reference]
    else:
        predicted = list(dict.fromkeys([box.corners for box in boxes]))
        duplicates = len(boxes) - len(predicted)
        del predicted[max_boxes:]
        truth = list(dict.fromkeys([box.corners for box in reference]))
    return Sides(predicted, truth, disagreeing, parsed.count, duplicates)


def iou(first: Corners, second: Corners) -> float:
    """Intersection over union of two boxes, 0-1."""
    ax1, ay1, ax2, ay2 = first
    bx1, by1, bx2, by2 = second
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if width <= 0.0 or height <= 0.0:
        return 0.0
    overlap = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    # Two boxes thinner than 1e-150 have an area that rounds to 0; their IoU is 0 here, not 0/0.
    return min(1.0, overlap / union) if union > 0.0 else 0.0


def giou(first: Corners, second: Corners) -> float:
    """Generalised IoU, IoU - (C - U) / C with C the area of the smallest box around both and U that of their union.

    Rezatofighi et al. 2019, "Generalized Intersection over Union". -1 (far apart) to 1 (equal).
    """
    ax1, ay1, ax2, ay2 = first
    bx1, by1, bx2, by2 = second
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    if hull <= 0.0:
        return -1.0  # boxes too thin for floats
    width, height = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
    overlap = width * height if width > 0.0 and height > 0.0 else 0.0
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    return iou(first, second) - max(0.0, hull - union) / hull


def iou_matrix(predicted: Sequence[Corners], reference: Sequence[Corners]) -> NDArray[np.float64]:
    """``iou`` of every pair at once, float64 [predicted, reference]."""
    predicted_P4 = np.array(predicted, dtype=np.float64).reshape(-1, 4)
    reference_R4 = np.array(reference, dtype=np.float64).reshape(-1, 4)
    low_PR2 = np.maximum(predicted_P4[:, None, :2], reference_R4[None, :, :2])
    high_PR2 = np.minimum(predicted_P4[:, None, 2:], reference_R4[None, :, 2:])
    overlap_PR = np.clip(high_PR2 - low_PR2, 0.0, None).prod(axis=-1)
    area_P = (predicted_P4[:, 2:] - predicted_P4[:, :2]).prod(axis=-1)
    area_R = (reference_R4[:, 2:] - reference_R4[:, :2]).prod(axis=-1)
    union_PR = area_P[:, None] + area_R[None, :] - overlap_PR
    iou_PR: NDArray[np.float64] = np.zeros_like(overlap_PR)
    np.divide(overlap_PR, union_PR, out=iou_PR, where=union_PR > 0.0)
    return np.minimum(iou_PR, 1.0, out=iou_PR)


def iou_rows(sides: Sides) -> Rows:
    """IoU of every pair, a list a predicted box; 0 where the labels disagree."""
    predicted, reference = sides.predicted, sides.reference
    if len(predicted) * len(reference) <= _FEW_PAIRS:
        rows = [[iou(box, other) for other in reference] for box in predicted]
    else:
        rows = iou_matrix(predicted, reference).tolist()
    for row, column in sides.disagreeing:
        rows[row][column] = 0.0
    return rows


def _undisputed(rows: Sequence[Sequence[float]]) -> list[tuple[int, int, float]] | None:
    """Every row with its best column, where no two rows want the same: no matching can have a greater sum."""
    pairs = []
    taken = set()
    for index, row in enumerate(rows):
        best = max(row)
        if best > 0.0:
            column = row.index(best)
            if column in taken:
                return None
            taken.add(column)
            pairs.append((index, column, best))
    return pairs


def optimal_pairs(weights: Sequence[Sequence[float]]) -> list[tuple[int, int, float]]:
    """One-to-one pairs (row, column, weight) with the greatest sum of weights, pairs of weight 0 left out.

    With IoU as weights it is the Hungarian algorithm on 1 - IoU. Of several matchings with the same sum, one with the
    most pairs is taken, so that counts do not depend on the order of the boxes.
    """
    if not weights or not len(weights[0]):
        return []
    pairs = _undisputed(weights)
    if pairs is not None:
        return pairs
    pairs = _undisputed(list(zip(*weights, strict=True)))
    if pairs is not None:
        return [(row, column, weight) for column, row, weight in pairs]
    # Imported here: settings look scorers up in the driver, which must not pay for scipy.
    from scipy.optimize import linear_sum_assignment

    weights_PR = np.array(weights)
    chosen = linear_sum_assignment(weights_PR + _PAIR_BONUS * (weights_PR > 0.0), maximize=True)
    kept = ((int(row), int(column), float(weights_PR[row, column])) for row, column in zip(*chosen, strict=True))
    return [pair for pair in kept if pair[2] > 0.0]


def match_sides(sides: Sides) -> Match:
    """The pairs with the greatest IoU sum."""
    pairs = optimal_pairs(iou_rows(sides))
    return Match(
        iou_sum=sum([pair[2] for pair in pairs]),
        matched=len(pairs),
        predicted=sides.written,
        reference=len(sides.reference),
        duplicates=sides.duplicates,
    )
