"""Boxes: from an answer's text to canonical boxes, and from two sets of boxes to matched pairs.

Role: the geometry under every grounding scorer. Pure functions; the parsers are linear in the text's length.
Input: an answer in a declared format, reference boxes. Output: ParsedBoxes; Match (pairs, counts, IoU sum).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.prompt import Box, BoxFormat

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_OBJECT = re.compile(r"\{[^{}]*\}")
_BBOX = re.compile(r"""["']?bbox_2d["']?\s*:\s*\[([^\[\]]*)\]""")
_BBOX_KEY = re.compile(r"""["']?bbox_2d["']?\s*:""")
_LABEL = re.compile(r"""["']?label["']?\s*:\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_LONGEST_NUMBER = 32  # characters; a coordinate needs four, and float() of a megabyte of digits is slow

# What the numbers of a format are divided by. A box outside 0..scale is invalid, never rescaled: guessing the scale
# would reward an answer that no user of the declared format can read.
SCALES: dict[BoxFormat, float] = {"radvlm": 1.0, "qwen3vl": 1000.0}


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """The boxes of one answer.

    Attributes:
        boxes: canonical, in the order of the answer.
        invalid: what was written as a box but is none: not four numbers, not finite, outside the format's range,
            without area. Each counts as a false positive.
        repaired: boxes whose corners were given in another order; they are among ``boxes``.
    """

    boxes: tuple[Box, ...]
    invalid: int
    repaired: int

    @property
    def count(self) -> int:
        """Everything that was written as a box."""
        return len(self.boxes) + self.invalid


def _numbers(text: str) -> list[float] | None:
    """The comma-separated numbers of a bracket; None where something else than numbers stands in it."""
    parts = [part.strip() for part in text.split(",")]
    if parts and not parts[-1]:
        parts.pop()  # a trailing comma
    if not parts or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    return [float(part) if len(part) <= _LONGEST_NUMBER else math.nan for part in parts]


def _canonical(numbers: Sequence[float], scale: float, label: str | None) -> Box | None:
    """A box from four numbers, or None. Swapped corners are put in order: any two opposite corners name one box."""
    if len(numbers) != 4 or not all(math.isfinite(n) and 0.0 <= n <= scale for n in numbers):
        return None
    x1, y1, x2, y2 = (n / scale for n in numbers)
    x1, x2 = sorted((x1, x2))
    y1, y2 = sorted((y1, y2))
    if not (x1 < x2 and y1 < y2):
        return None
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, label=label)


def _radvlm_candidates(text: str) -> Iterable[tuple[list[float], str | None]]:
    # A bracket with words in it, or with one number ("[1]", a footnote), is prose; two or more numbers claim a box.
    for match in _BRACKETS.finditer(text):
        numbers = _numbers(match.group(1))
        if numbers is not None and len(numbers) > 1:
            yield numbers, None


def _qwen3vl_candidates(text: str) -> Iterable[tuple[list[float], str | None]]:
    # Innermost objects only, so fences, prose, an enclosing object and trailing commas do no harm. An object that is
    # not closed (a truncated answer) is not read.
    for match in _OBJECT.finditer(text):
        body = match.group()
        if not _BBOX_KEY.search(body):
            continue
        box = _BBOX.search(body)
        label = _LABEL.search(body)
        name = (label.group(1) or label.group(2) or "") if label else ""
        yield (_numbers(box.group(1)) or []) if box else [], name.strip() or None


def parse_boxes(text: str, box_format: BoxFormat) -> ParsedBoxes:
    """The boxes that an answer names in the declared format; any string is fine, none raises.

    ``radvlm``: ``[x1, y1, x2, y2]`` in 0-1 inside prose, no labels. ``qwen3vl``: JSON objects
    ``{"bbox_2d": [x1, y1, x2, y2], "label": "..."}`` in 0-1000, in a fence or not.
    """
    scale = SCALES[box_format]
    candidates = _radvlm_candidates(text) if box_format == "radvlm" else _qwen3vl_candidates(text)
    boxes: list[Box] = []
    invalid = repaired = 0
    for numbers, label in candidates:
        box = _canonical(numbers, scale, label)
        if box is None:
            invalid += 1
            continue
        boxes.append(box)
        repaired += numbers[0] > numbers[2] or numbers[1] > numbers[3]
    return ParsedBoxes(tuple(boxes), invalid, repaired)


def names_boxes(text: str) -> bool:
    """Whether a text writes something as a box, in any known format; a report must not."""
    return any(parse_boxes(text, box_format).count for box_format in SCALES)


def iou_matrix(predicted: Sequence[Box], reference: Sequence[Box]) -> NDArray[np.float64]:
    """Intersection over union of every pair, float64 [predicted, reference]."""
    predicted_P4 = np.array([box.corners for box in predicted], dtype=np.float64).reshape(-1, 4)
    reference_R4 = np.array([box.corners for box in reference], dtype=np.float64).reshape(-1, 4)
    low_PR2 = np.maximum(predicted_P4[:, None, :2], reference_R4[None, :, :2])
    high_PR2 = np.minimum(predicted_P4[:, None, 2:], reference_R4[None, :, 2:])
    overlap_PR = np.clip(high_PR2 - low_PR2, 0.0, None).prod(axis=-1)
    area_P = (predicted_P4[:, 2:] - predicted_P4[:, :2]).prod(axis=-1)
    area_R = (reference_R4[:, 2:] - reference_R4[:, :2]).prod(axis=-1)
    union_PR = area_P[:, None] + area_R[None, :] - overlap_PR
    # Two boxes thinner than 1e-150 have an area that rounds to 0; their IoU is 0 here, not 0/0.
    iou_PR: NDArray[np.float64] = np.divide(overlap_PR, union_PR, out=np.zeros_like(overlap_PR), where=union_PR > 0.0)
    return iou_PR


def optimal_pairs(iou_PR: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    """One-to-one pairs (row, column, IoU) with the greatest IoU sum (Hungarian on 1 - IoU), those of IoU 0 left out."""
    # Imported here: settings look scorers up in the driver, which must not pay for scipy.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(1.0 - iou_PR)
    pairs = ((int(r), int(c), float(iou_PR[r, c])) for r, c in zip(rows, columns, strict=True))
    return [pair for pair in pairs if pair[2] > 0.0]


@dataclass(frozen=True, slots=True)
class Match:
    """Predictions against references.

    Attributes:
        iou_sum: t, the sum of IoU over the kept pairs.
        matched: V, the number of kept pairs.
        predicted: everything that was written as a box, invalid ones, duplicates and those over the limit included.
        reference: the number of reference boxes.
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
    return " ".join(label.lower().split()) if label else None


def _distinct(boxes: Iterable[Box], with_labels: bool) -> list[Box]:
    """The first of each set of exact duplicates, in order."""
    first: dict[object, Box] = {}
    for box in boxes:
        first.setdefault((box.corners, _name(box.label) if with_labels else None), box)
    return list(first.values())


def match_boxes(parsed: ParsedBoxes, reference: Sequence[Box], max_boxes: int) -> Match:
    """Matches an answer with its reference under the guards against flooding.

    - An exact duplicate of an earlier box is never matched: it is a false positive. A reference named twice is one.
    - Only the first ``max_boxes`` distinct boxes are matched; the rest are false positives.
    - Where both sides of a pair name a label, the labels must agree (case and spaces apart).
    """
    with_labels = any(box.label for box in parsed.boxes)
    candidates = _distinct(parsed.boxes, with_labels)
    duplicates = len(parsed.boxes) - len(candidates)
    candidates = candidates[:max_boxes]
    truth = _distinct(reference, with_labels)
    iou_PR = iou_matrix(candidates, truth)
    if with_labels:
        for row, box in enumerate(candidates):
            for column, true_box in enumerate(truth):
                if box.label and true_box.label and _name(box.label) != _name(true_box.label):
                    iou_PR[row, column] = 0.0
    pairs = optimal_pairs(iou_PR)
    return Match(
        iou_sum=sum(iou for _, _, iou in pairs),
        matched=len(pairs),
        predicted=parsed.count,
        reference=len(truth),
        duplicates=duplicates,
    )
