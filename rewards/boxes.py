"""Boxes: from an answer's text to canonical boxes.

Role: the parsers under every grounding scorer and the format guard. Pure, linear in the text's length, never raise.
Input: an answer, its declared format. Output: ParsedBoxes. The geometry is in rewards/box_matching.py.

What the parsers forgive, and what they do not, in both formats:

- **Prose, code fences, an enclosing list or object** around boxes are passed over.
- **A trailing comma** after the last number, box or object is passed over.
- **Swapped corners** are put in order and counted (``repaired``): any two opposite corners name one box.
- **The scale is never guessed.** A box with a number outside the declared scale is invalid: rescaling it would reward
  an answer that no user of the declared format can read.
- **NaN, infinities, numbers of more than 32 characters, not four numbers, no area**: invalid.
- **A last list that is cut off** (the answer ran into its token limit) is neither read nor counted.

An invalid box is a false positive: it was written as a box.

``radvlm``: ``[x1, y1, x2, y2]`` in 0-1. A square bracket that holds nothing but two or more numbers claims a box,
wherever it stands. So the list of a JSON ``bbox_2d`` is read as any other list, by this format's scale: in 0-1 it is a
box without label, in 0-1000 it is invalid. Brackets with words, quotes or one number ("[1]") are prose.

``qwen3vl``: objects ``{"bbox_2d": [x1, y1, x2, y2], "label": "..."}`` in 0-1000, in a list, alone, or inside another
object. Single quotes and bare keys are fine; the label may be missing, and holds no braces. Innermost objects only: one
whose ``bbox_2d`` is no flat list of numbers is invalid, and every ``bbox_2d`` of an object counts. A plain list of two
or more numbers outside such an object (a bare one, another key's, that of an object without its closing brace) is
invalid: written as a box, but not in the declared format. Were it passed over, "[100, 200, 300, 400]" would count as
"there is none".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from schemas.prompt import Box, BoxFormat

# Possessive (++, *+, ?+): a number or list is read one way only, so a failure costs no backtracking, and megabytes of
# digits stay linear. Cases are spelt out, since ignoring case lets "\u0131nf" pass, which float() refuses.
_NOT_FINITE = r"[nN][aA][nN]|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?+"
_NUMBER = rf"[-+]?+(?:(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?+[0-9]++)?+|{_NOT_FINITE})"
_MORE = rf"(?:\s*+,\s*+{_NUMBER})"
_END = r"\s*+(?:,\s*+)?+\]"
_CLAIM = re.compile(rf"\[\s*+({_NUMBER}{_MORE}++){_END}")
_LIST = re.compile(rf"\s*+\[\s*+({_NUMBER}{_MORE}*+){_END}")
_OBJECT = re.compile(r"\{[^{}]*+\}")
_KEY = "bbox_2d"
_BBOX_KEY = re.compile(rf"{_KEY}[\"']?+\s*+:")
_LABEL = re.compile(
    r"""label["']?+\s*+:\s*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|'([^'\\]*+(?:\\.[^'\\]*+)*+)')""", re.DOTALL
)
_LONGEST_NUMBER = 32  # characters; a coordinate needs four, and float() of a megabyte of digits is slow

# What the numbers of a format are divided by.
SCALES: dict[BoxFormat, float] = {"radvlm": 1.0, "qwen3vl": 1000.0}


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """The boxes of one answer.

    Attributes:
        boxes: canonical, in the order of the answer.
        invalid: what was written as a box but is none. Each counts as a false positive.
        repaired: boxes whose corners were given in another order; they are among ``boxes``.
    """

    boxes: tuple[Box, ...]
    invalid: int
    repaired: int

    @property
    def count(self) -> int:
        """Everything that was written as a box."""
        return len(self.boxes) + self.invalid


class _Reader:
    """Collects the boxes of one answer."""

    __slots__ = ("boxes", "invalid", "repaired", "scale")

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.boxes: list[Box] = []
        self.invalid = 0
        self.repaired = 0

    def read(self, numbers: str, label: str | None = None) -> None:
        """One list of numbers, without its brackets."""
        corners = _coordinates(numbers)
        if corners is None:
            self.invalid += 1
            return
        scale = self.scale
        x1, y1, x2, y2 = corners
        # NaN fails every comparison.
        if not (0.0 <= x1 <= scale and 0.0 <= y1 <= scale and 0.0 <= x2 <= scale and 0.0 <= y2 <= scale):
            self.invalid += 1
            return
        swapped = x1 > x2 or y1 > y2
        if swapped:
            x1, x2 = min(x1, x2), max(x1, x2)
            y1, y2 = min(y1, y2), max(y1, y2)
        x1, y1, x2, y2 = x1 / scale, y1 / scale, x2 / scale, y2 / scale
        if x1 < x2 and y1 < y2:
            self.boxes.append(Box(x1=x1, y1=y1, x2=x2, y2=y2, label=label))
            self.repaired += swapped
        else:
            self.invalid += 1


def _coordinates(numbers: str) -> list[float] | None:
    """Four numbers, NaN for one that is too long; None for another count."""
    parts = numbers.split(",", 4)  # at most five parts of megabytes
    if len(parts) != 4:
        return None
    # float() alone forgives fewer kinds of space than the pattern does.
    return [float(part) if len(part) <= _LONGEST_NUMBER else math.nan for part in map(str.strip, parts)]


def _read_objects(text: str, reader: _Reader) -> None:
    outside: list[str] = []
    position = 0
    for match in _OBJECT.finditer(text):
        body = match.group()
        if _KEY not in body:
            continue
        keys = list(_BBOX_KEY.finditer(body))
        if not keys:
            continue
        name = _LABEL.search(body)
        label = (name.group(1) or name.group(2) or "").strip() or None if name else None
        for key in keys:
            numbers = _LIST.match(body, key.end())
            if numbers is None:
                reader.invalid += 1
            else:
                reader.read(numbers.group(1), label)
        outside.append(text[position : match.start()])
        position = match.end()
    outside.append(text[position:])
    # Braces in the place of each object: what stood before it and after it must not join to a list.
    reader.invalid += sum(1 for _ in _CLAIM.finditer("{}".join(outside)))


def parse_boxes(text: str, box_format: BoxFormat) -> ParsedBoxes:
    """The boxes that an answer names in the declared format, by the rules above; any string is fine."""
    reader = _Reader(SCALES[box_format])
    if box_format == "radvlm":
        for numbers in _CLAIM.findall(text):
            reader.read(numbers)
    else:
        _read_objects(text, reader)
    return ParsedBoxes(tuple(reader.boxes), reader.invalid, reader.repaired)


def names_boxes(text: str) -> bool:
    """Whether a text writes something as a box, in any known format; a report must not."""
    return any(parse_boxes(text, box_format).count for box_format in SCALES)
