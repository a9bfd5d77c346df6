"""format: is the answer written the way that its task declares?

Role: a guard; 1 or 0, so that a recipe can reward or demand the form. The trace alone, with a floor: think.
Input: a completion, its task and box format. Output: 1 where every rule holds, with each rule in the details.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.boxes import names_boxes, parse_boxes
from rewards.scorer import NoParams, ScoreItem, Scorer
from rewards.text import thinks_as_asked
from schemas.group import Score, ScoreError

_WORD = re.compile(r"[^\W\d_]{2,}")


def _boxes_ok(item: ScoreItem) -> bool:
    """Boxes in the declared format and no broken one; none are asked for where the reference has none."""
    if item.box_format is None:
        return not names_boxes(item.answer)
    parsed = parse_boxes(item.answer, item.box_format)
    wanted = item.task == "grounding" and item.reference.boxes != ()
    return parsed.invalid == 0 and (len(parsed.boxes) > 0 or not wanted)


def _prose_ok(item: ScoreItem) -> bool:
    """A report has words and no boxes; any other answer only must not be blank."""
    if item.task != "report":
        return bool(item.answer)
    return _WORD.search(item.answer) is not None and not names_boxes(item.answer)


def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
    """One score an item."""
    results: list[Score | ScoreError] = []
    for item in items:
        rules = {
            "thinking_ok": thinks_as_asked(item.completion, item.thinking),
            "boxes_ok": item.task != "grounding" or _boxes_ok(item),
            "prose_ok": _prose_ok(item),
        }
        details = {rule: float(holds) for rule, holds in rules.items()}
        results.append(Score(value=float(all(rules.values())), details=details))
    return results


SCORER = Scorer(
    name="format",
    version="2",  # 2: a trace needs words, and an answer opens no other one
    tasks=frozenset({"report", "grounding", "classification", "conversation"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=(),
    params=NoParams,
    score=score,
    summary="1 where the answer has its task's form (boxes, prose, one </think> in a thinking run), else 0",
)
