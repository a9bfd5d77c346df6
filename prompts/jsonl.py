"""JSON lines: a user's own data, one prompt a line.

Role: the easy way in. Input: a .jsonl file; relative picture paths are taken from its folder.
Output: a folder with prompts.parquet, and conversations.parquet if lines carry an ``answer``.
Every fault is one line that names the line, the field, the rule and the remedy, and never quotes a report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from prompts.atomic import new_folder
from prompts.images import image_ref
from prompts.splits import hash_split
from prompts.store import CONVERSATIONS_FILE, PROMPTS_FILE, write_conversations, write_prompts
from schemas.base import Noun
from schemas.errors import DataError
from schemas.prompt import Box, BoxFormat, Conversation, ImageRef, Prompt, Reference, Split, Task, Turn

BoxUnits = Literal["relative", "pixels"]
_TRUTH_OF_TASK: dict[Task, str] = {
    "report": "report",
    "grounding": "boxes",
    "classification": "labels",
    "conversation": "report",
}
_SHOWN_FIELDS = ("task", "split", "box_format", "box_units")
"""Fields whose text an error may quote; of all other text it tells the length."""
_SEE = (
    'a line looks like {"id": "a1", "image": "a1.png", "task": "report", "question": "...", "report": "...", '
    '"patient_id": "p1"}'
)


class RecordBox(Noun):
    """A box as a user writes it: ``{"box": [x1, y1, x2, y2], "label": "nodule"}``."""

    box: tuple[float, float, float, float]
    label: str | None = None


class Record(Noun):
    """One line of the file."""

    id: str = Field(min_length=1)
    image: str | None = None
    images: tuple[str, ...] | None = None
    task: Task
    question: str = Field(min_length=1)
    report: str | None = None
    boxes: tuple[RecordBox, ...] | None = None
    labels: tuple[str, ...] | None = None
    box_format: BoxFormat | None = None
    box_units: BoxUnits = "relative"
    answer: str | None = Field(default=None, min_length=1)
    patient_id: str = Field(min_length=1)
    study_id: str | None = Field(default=None, min_length=1)
    split: Split | None = None

    @model_validator(mode="after")
    def _complete(self) -> Record:
        if self.image is not None and self.images is not None:
            raise ValueError("give image or images, not both")
        truth = _TRUTH_OF_TASK[self.task]
        if getattr(self, truth) is None:
            raise ValueError(f"task {self.task} needs {truth}")
        return self

    @property
    def image_paths(self) -> tuple[str, ...]:
        return (self.image,) if self.image is not None else (self.images or ())


def convert_jsonl(src: Path, out: Path) -> int:
    """Convert a JSON lines file; ``out`` appears whole or not at all.

    A line without ``split`` goes where other lines put its patient, else where a hash of the patient puts it: no
    patient is ever in two splits.

    Returns:
        The number of prompts written.

    Raises:
        DataError: the file can't be read, a line breaks a rule, a picture is missing, or ``out`` exists.
    """
    records = dict(_records(src))
    if not records:
        raise DataError(str(src), "must hold at least one line", "none", _SEE)
    _refuse_repeated_ids(records)
    splits = _splits(records)
    reader = _PictureReader(src.absolute().parent)
    prompts: list[Prompt] = []
    conversations: list[Conversation] = []
    with new_folder(out) as folder:
        for line, record in records.items():
            prompt = _prompt(line, record, src.stem, splits[record.patient_id], reader)
            prompts.append(prompt)
            if record.answer is not None:
                conversations.append(_conversation(prompt, record.answer))
        write_prompts(folder / PROMPTS_FILE, prompts)
        if conversations:
            write_conversations(folder / CONVERSATIONS_FILE, conversations)
    return len(prompts)


def _records(src: Path) -> Iterator[tuple[int, Record]]:
    """(line number from 1, record) of every line that isn't blank."""
    try:
        # Split at line feeds only: JSON strings may hold other characters that str.splitlines takes for line ends.
        lines = src.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(str(src), "must be a readable JSON lines file", error.strerror, "check the path") from error
    for line, content in enumerate(lines, start=1):
        if content.strip():
            yield line, _record(line, content)


def _record(line: int, content: bytes) -> Record:
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise DataError(
            f"line {line}", "must be UTF-8", f"a wrong byte at {error.start}", "save it as UTF-8"
        ) from error
    except (json.JSONDecodeError, RecursionError) as error:
        given = (
            f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep nesting"
        )
        raise DataError(f"line {line}", "must be one JSON object", given, _SEE) from error
    if not isinstance(value, dict):
        raise DataError(f"line {line}", "must be one JSON object", type(value).__name__, _SEE)
    try:
        return Record.model_validate(value)
    except ValidationError as error:
        raise _told(line, error, value) from error


def _told(line: int, error: ValidationError, value: Mapping[str, Any]) -> DataError:
    """The first fault of a record as field, rule, value, remedy."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    field = f"line {line}: {place}" if place else f"line {line}"
    if fault["type"] == "extra_forbidden":
        known = Record.model_fields if len(fault["loc"]) == 1 else RecordBox.model_fields
        nearest = get_close_matches(str(fault["loc"][-1]), known, n=1)
        remedy = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
        return DataError(field, "must be a known key", "an unknown one", remedy)
    if fault["type"] == "missing":
        return DataError(field, "must be given", "nothing", _SEE)
    rule = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return DataError(field, rule, f"keys {', '.join(value)}", _SEE)
    return DataError(field, rule, _shown(str(fault["loc"][0]), fault["input"]), _SEE)


def _shown(field: str, value: object) -> str:
    if isinstance(value, str) and field not in _SHOWN_FIELDS:
        return f"{len(value)} characters"
    return repr(value)[:40] if isinstance(value, str | int | float) else type(value).__name__


def _refuse_repeated_ids(records: Mapping[int, Record]) -> None:
    first_line: dict[str, int] = {}
    for line, record in records.items():
        earlier = first_line.setdefault(record.id, line)
        if earlier != line:
            raise DataError(f"line {line}: id", "must be unique", f"the id of line {earlier}", "give each line its own")


def _splits(records: Mapping[int, Record]) -> dict[str, Split]:
    """The split of each patient: the one that its lines name, else the hash's."""
    named: dict[str, tuple[int, Split]] = {}
    for line, record in records.items():
        if record.split is None:
            continue
        earlier_line, earlier = named.setdefault(record.patient_id, (line, record.split))
        if earlier != record.split:
            raise DataError(
                f"line {line}: split",
                "a patient must be in one split only",
                f"{record.split!r}, but {earlier!r} in line {earlier_line}",
                "give all lines of a patient the same split",
            )
    return {
        record.patient_id: named[record.patient_id][1] if record.patient_id in named else hash_split(record.patient_id)
        for record in records.values()
    }


class _PictureReader:
    """References to pictures, each file looked at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, ImageRef] = {}

    def refs(self, line: int, record: Record) -> tuple[ImageRef, ...]:
        return tuple(self._ref(line, path) for path in record.image_paths)

    def _ref(self, line: int, path: str) -> ImageRef:
        file = self._folder / path
        if file not in self._known:
            try:
                self._known[file] = image_ref(file)
            except DataError as error:
                raise DataError(f"line {line}: image {error.field}", error.rule, error.given, error.remedy) from error
        return self._known[file]


def _prompt(line: int, record: Record, dataset: str, split: Split, reader: _PictureReader) -> Prompt:
    images = reader.refs(line, record)
    boxes = None if record.boxes is None else tuple(_boxes(line, record, images))
    try:
        return Prompt(
            prompt_id=record.id,
            task=record.task,
            question=record.question,
            images=images,
            box_format=record.box_format or ("radvlm" if record.boxes is not None else None),
            reference=Reference(report=record.report, boxes=boxes, labels=record.labels),
            dataset=dataset,
            patient_id=record.patient_id,
            study_id=record.study_id or record.patient_id,
            split=split,
        )
    except ValidationError as error:
        raise _told(line, error, {}) from error


def _boxes(line: int, record: Record, images: tuple[ImageRef, ...]) -> Iterator[Box]:
    """The record's boxes, 0-1."""
    if record.box_units == "pixels" and len(images) != 1:
        raise DataError(
            f"line {line}: box_units", "pixels need exactly one image", f"{len(images)} images", "use relative boxes"
        )
    width, height = (images[0].width, images[0].height) if record.box_units == "pixels" else (1, 1)
    for index, written in enumerate(record.boxes or ()):
        x1, y1, x2, y2 = written.box
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise DataError(
                f"line {line}: boxes.{index}.box",
                f"must be [x1, y1, x2, y2] with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}",
                list(written.box),
                f"correct it, or set box_units (now {record.box_units!r})",
            )
        yield Box(x1=x1 / width, y1=y1 / height, x2=x2 / width, y2=y2 / height, label=written.label)


def _conversation(prompt: Prompt, answer: str) -> Conversation:
    return Conversation(
        conversation_id=prompt.prompt_id,
        images=prompt.images,
        turns=(
            Turn(role="user", text=prompt.question),
            Turn(role="assistant", text=answer, is_answer=True),
        ),
        dataset=prompt.dataset,
        patient_id=prompt.patient_id,
        split=prompt.split,
    )
