"""Row: one completion to score, as a user's file or data set writes it.

Role: the one place that turns loose columns into a wire Item; ``overread rewards score`` and the adapters share it.
Input: column names and values. Output: an Item, or a DataError that names row, field, rule and remedy, never a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from rewards.wire import Item, field_problems
from schemas.errors import DataError
from schemas.prompt import Task

COLUMN_HELP = """\
- `completion` or `prediction`: text, what the model wrote.
- `reference`: text (a report), or an object with any of `report`, `boxes`, `labels`.
- `boxes`, where `reference` is no object: `[[x1, y1, x2, y2], ...]` or
  `[{"box": [x1, y1, x2, y2], "label": "nodule"}, ...]`, relative to the picture (0-1), x1 < x2, y1 < y2.
- `labels`, where `reference` is no object: `["pneumothorax", ...]`.
- `task`: `report`, `grounding`, `classification` or `conversation`. Left out: `report` for a reference with a report
  only, `grounding` for one with boxes only, `classification` for one with labels only.
- `box_format`: how the completion writes boxes, `radvlm` (`[0.1, 0.2, 0.3, 0.4]` in prose) or `qwen3vl`
  (`{"bbox_2d": [100, 200, 300, 400]}`). Grounding needs it.
- `id`, `question`, `thinking` (true: the completion has to hold a trace that ends in `</think>`), `token_count`,
  `finish_reason` (`stop`, `length` or `abort`): may be left out.
"""

_COPIED = ("box_format", "question", "thinking", "token_count", "finish_reason")
ROW_COLUMNS = ("id", "completion", "prediction", "reference", "boxes", "labels", "task", *_COPIED)
_TASK_OF: dict[str, Task] = {"report": "report", "boxes": "grounding", "labels": "classification"}
_LONGEST_SHOWN = 40  # characters of a column's name or of a number that an error repeats
_LONGEST_WORD = 20  # characters of a single word ("reprot") that an error repeats, in the columns that hold one
_WORDS = frozenset({"task", "box_format", "finish_reason"})
_NEAR = 0.85  # "references" and "box_fromat" are slips of a known name, "report_id" and "image" are other columns
_SEE = "see the columns in: overread rewards score --help"


def item_from_row(row: Mapping[str, Any], where: str, item_id: str, known: Sequence[str] = ()) -> Item:
    """The item of a row. A column with None counts as absent; columns that are not ours are left alone.

    Args:
        where: how an error names the row.
        item_id: its id where it has none of its own.
        known: the caller's own columns, beside those of ``COLUMN_HELP``.

    Raises:
        DataError: the row breaks a rule, or has a column whose name is a slip of a known one.
    """
    for name in row:
        _refuse_slip(name, where, tuple(known))
    given = {name: row[name] for name in ROW_COLUMNS if row.get(name) is not None}
    reference = _reference(given, where)
    task = given.get("task") or _task(reference, where)
    if task == "grounding" and "box_format" not in given:
        remedy = "say how the completion writes its boxes"
        raise DataError(f"{where}: box_format", "must be radvlm or qwen3vl for the task grounding", "nothing", remedy)
    values = {name: given[name] for name in _COPIED if name in given}
    values |= {"id": str(given.get("id", item_id)), "task": task, "reference": reference}
    values |= {"completion": _completion(given, where)}
    try:
        item = Item.model_validate(values)
    except ValidationError as error:
        problem, shown = field_problems(error)[0], _shown(error.errors()[0])
        raise DataError(f"{where}: {problem.field}", problem.rule, shown, f"correct the row; {_SEE}") from None
    _refuse_half_characters(item, where)
    return item


@lru_cache(maxsize=4096)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    names = (*ROW_COLUMNS, *known)
    return None if name in names else next(iter(get_close_matches(name, names, n=1, cutoff=_NEAR)), None)


def _refuse_slip(name: str, where: str, known: tuple[str, ...]) -> None:
    nearest = _nearest(name[:_LONGEST_SHOWN], known)
    if nearest is not None:
        rule, given = "must be a known column, or unlike one", name[:_LONGEST_SHOWN]
        raise DataError(f"{where}: column", rule, given, f"rename it to {nearest}, or leave it out")


def _refuse_half_characters(item: Item, where: str) -> None:
    """JSON can hold half of a surrogate pair, which no UTF-8 request can carry."""
    texts = {"completion": item.completion, "question": item.question, "reference.report": item.reference.report}
    for name, text in texts.items():
        if text is not None and not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            rule, given = "must be whole Unicode characters", f"a text of {len(text)} characters with half of one"
            raise DataError(f"{where}: {name}", rule, given, "mend the text, or leave the character out")


def _completion(given: Mapping[str, Any], where: str) -> object:
    if ("completion" in given) == ("prediction" in given):
        count = "both" if "completion" in given else "neither"
        raise DataError(f"{where}: completion", "must be given once, as completion or prediction", count, _SEE)
    return given.get("completion", given.get("prediction"))


def _reference(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The reference as the wire wants it."""
    value = given.get("reference")
    beside = {name: given[name] for name in ("boxes", "labels") if name in given}
    if isinstance(value, Mapping):
        if beside:
            rule = "must not stand beside a reference that is an object"
            raise DataError(f"{where}: {next(iter(beside))}", rule, "both", "put it into the object")
        fields = {str(name): part for name, part in value.items() if part is not None}
    elif value is None and not beside:
        raise DataError(f"{where}: reference", "must be given, or boxes, or labels", "nothing", _SEE)
    elif value is None or isinstance(value, str):
        fields = beside if value is None else {"report": value, **beside}
    else:
        rule = "must be a text, or an object with any of report, boxes, labels"
        raise DataError(f"{where}: reference", rule, type(value).__name__, _SEE)
    boxes = fields.get("boxes")
    if isinstance(boxes, Sequence) and not isinstance(boxes, str):
        fields["boxes"] = [box if isinstance(box, Mapping) else {"box": box} for box in boxes]
    return fields


def _task(reference: Mapping[str, Any], where: str) -> Task:
    kinds = [task for name, task in _TASK_OF.items() if name in reference]
    if len(kinds) == 1:
        return kinds[0]
    given = f"a reference with {', '.join(reference) or 'nothing in it'}"
    raise DataError(f"{where}: task", "must be given where the reference does not tell it", given, _SEE)


def _shown(error: Any) -> str:
    """The value that pydantic refused: of a text its length only."""
    if error["type"] == "missing":
        return "nothing"
    value = error["input"]
    if isinstance(value, str):
        shown = error["loc"][0] in _WORDS and value.isidentifier() and len(value) <= _LONGEST_WORD
        return repr(value) if shown else f"a text of {len(value)} characters"
    if isinstance(value, int | float) or value is None:
        return repr(value)[:_LONGEST_SHOWN]
    return f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__
