from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prompt_cases import CONFIDENTIAL, write_picture

import prompts.jsonl
from prompts.converters import CONVERTERS
from prompts.jsonl import convert_jsonl
from prompts.splits import hash_split
from prompts.store import read_conversations, read_prompts
from schemas.errors import DataError

REPORT = {
    "id": "a",
    "image": "films/a.png",
    "task": "report",
    "question": "Write a report.",
    "report": CONFIDENTIAL,
    "patient_id": "p1",
}
GROUNDING = {
    "id": "b",
    "images": ["films/a.png"],
    "task": "grounding",
    "question": "Where is the nodule?",
    "boxes": [{"box": [0.1, 0.2, 0.3, 0.4], "label": "nodule"}],
    "patient_id": "p2",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_picture(tmp_path / "mine" / "films" / "a.png", width=8, height=6)
    return tmp_path / "mine" / "own.jsonl"


def write(source: Path, *records: dict[str, Any]) -> Path:
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return source


def refused(source: Path, out: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        convert_jsonl(source, out)
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["mine"]
    message = str(caught.value)
    assert "\n" not in message
    assert CONFIDENTIAL not in message
    return caught.value


def test_records_become_prompts_with_absolute_pictures(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(source, {**REPORT, "split": "test"}, {**GROUNDING, "split": "train", "study_id": "s"})
    assert CONVERTERS["jsonl"](source, out) == 2
    report, grounding = read_prompts(out)
    assert (report.prompt_id, report.task, report.split, report.dataset) == ("a", "report", "test", "own")
    assert report.reference.report == CONFIDENTIAL
    assert report.box_format is None
    assert report.images[0].path == str(source.parent / "films" / "a.png")
    assert (report.images[0].width, report.images[0].height) == (8, 6)
    assert grounding.reference.boxes is not None
    assert grounding.reference.boxes[0].corners == (0.1, 0.2, 0.3, 0.4)
    assert (grounding.box_format, grounding.study_id, report.study_id) == ("radvlm", "s", "p1")
    assert not (out / "conversations.parquet").exists()


def test_pixel_boxes_are_divided_by_the_picture(source: Path, tmp_path: Path) -> None:
    write(source, {**GROUNDING, "box_units": "pixels", "boxes": [{"box": [2, 3, 8, 6]}], "box_format": "qwen3vl"})
    convert_jsonl(source, tmp_path / "out")
    (prompt,) = read_prompts(tmp_path / "out")
    assert prompt.reference.boxes is not None
    assert prompt.reference.boxes[0].corners == (0.25, 0.5, 1.0, 1.0)
    assert prompt.box_format == "qwen3vl"


def test_an_answer_becomes_a_conversation_too(source: Path, tmp_path: Path) -> None:
    write(source, {**REPORT, "answer": "An answer.", "split": "train"}, GROUNDING)
    convert_jsonl(source, tmp_path / "out")
    (talk,) = read_conversations(tmp_path / "out")
    assert [(turn.role, turn.text, turn.is_answer) for turn in talk.turns] == [
        ("user", "Write a report.", False),
        ("assistant", "An answer.", True),
    ]
    assert (talk.conversation_id, talk.split, len(talk.images)) == ("a", "train", 1)


def test_text_only_and_empty_boxes_are_prompts_too(source: Path, tmp_path: Path) -> None:
    no_picture = {key: value for key, value in REPORT.items() if key != "image"}
    write(source, no_picture, {**GROUNDING, "boxes": []})
    convert_jsonl(source, tmp_path / "out")
    report, grounding = read_prompts(tmp_path / "out")
    assert report.images == ()
    assert grounding.reference.boxes == ()


def test_patients_without_a_split_are_split_by_their_hash(source: Path, tmp_path: Path) -> None:
    records = [
        {**REPORT, "id": f"{patient}-{film}", "patient_id": f"p{patient}"} for patient in range(40) for film in "ab"
    ]
    write(source, *records)
    convert_jsonl(source, tmp_path / "out")
    rows = read_prompts(tmp_path / "out")
    assert all(row.split == hash_split(row.patient_id) for row in rows)
    assert {row.split for row in rows} == {"train", "validation", "test"}


def test_a_patient_follows_the_split_that_another_line_names(source: Path, tmp_path: Path) -> None:
    records = [{**REPORT, "id": f"{patient}a", "patient_id": f"p{patient}"} for patient in range(20)]
    named = [{**REPORT, "id": f"{patient}b", "patient_id": f"p{patient}", "split": "test"} for patient in range(20)]
    write(source, *records, *named)
    convert_jsonl(source, tmp_path / "out")
    assert {row.split for row in read_prompts(tmp_path / "out")} == {"test"}


def test_a_patient_in_two_splits_is_refused(source: Path, tmp_path: Path) -> None:
    write(source, {**REPORT, "split": "train"}, {**GROUNDING, "patient_id": "p1", "split": "test"})
    error = refused(source, tmp_path / "out")
    assert error.field == "line 2: split"
    assert "line 1" in str(error.given)


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"task": "groundng"}, "line 2: task", "'groundng'"),
        ({"boxs": []}, "line 2: boxs", "did you mean boxes?"),
        ({"boxes": [{"box": [0, 0, 1, 1], "lable": "x"}]}, "line 2: boxes.0.lable", "did you mean label?"),
        ({"boxes": [{"box": [10, 20, 30, 40]}]}, "line 2: boxes.0.box", "box_units (now 'relative')"),
        ({"boxes": [{"box": [0.5, 0.2, 0.5, 0.4]}]}, "line 2: boxes.0.box", "[0.5, 0.2, 0.5, 0.4]"),
        ({"boxes": [{"box": [-0.1, 0.2, 0.5, 0.4]}]}, "line 2: boxes.0.box", "0 <= x1"),
        ({"boxes": [{"box": [0, 0, 9, 6]}], "box_units": "pixels"}, "line 2: boxes.0.box", "<= 8"),
        ({"boxes": [{"box": [0, 0, float("nan"), 1]}]}, "line 2: boxes.0.box.2", "finite"),
        ({"boxes": [{"box": [0, 0, 1]}]}, "line 2: boxes.0.box.3", "given"),
        ({"boxes": CONFIDENTIAL}, "line 2: boxes", f"{len(CONFIDENTIAL)} characters"),
        ({"boxes": None}, "line 2", "task grounding needs boxes"),
        ({"box_units": "pixels", "images": []}, "line 2: box_units", "exactly one image"),
        ({"image": "films/a.png"}, "line 2", "image or images, not both"),
        ({"images": ["films/absent.png"]}, "line 2: image ", "No such file"),
        ({"images": ["own.jsonl"]}, "line 2: image ", "decoded"),
        ({"patient_id": ""}, "line 2: patient_id", "0 characters"),
        ({"patient_id": 7}, "line 2: patient_id", "valid string"),
        ({"id": "a"}, "line 2: id", "the id of line 1"),
        ({"question": f"<|image_pad|> {CONFIDENTIAL}"}, "line 2: question", "vision tokens"),
        ({"report": [CONFIDENTIAL]}, "line 2: report", "list"),
        ({"question": "\ud800"}, "line 2: question", "unicode"),
        ({"split": "dev"}, "line 2: split", "'dev'"),
    ],
)
def test_a_fault_is_one_line_with_number_field_rule_and_value(
    source: Path, tmp_path: Path, change: dict[str, Any], field: str, told: str
) -> None:
    write(source, REPORT, {**GROUNDING, **change})
    error = refused(source, tmp_path / "out")
    assert error.field.startswith(field)
    assert told in str(error)


def test_a_missing_key_is_named(source: Path, tmp_path: Path) -> None:
    write(source, {key: value for key, value in REPORT.items() if key != "patient_id"})
    error = refused(source, tmp_path / "out")
    assert error.field == "line 1: patient_id"
    assert "must be given" in str(error)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"id": "a",', "column"),
        (b"[1, 2]", "list"),
        (b"null", "NoneType"),
        (b'"text"', "str"),
        (b"[" * 200_000, "nesting"),
        (b'{"id": "\xff"}', "UTF-8"),
    ],
)
def test_a_line_that_is_no_json_object_is_told_by_number(source: Path, tmp_path: Path, line: bytes, told: str) -> None:
    write(source, REPORT)
    source.write_bytes(source.read_bytes() + b"\n" + line + b"\n")
    error = refused(source, tmp_path / "out")
    assert error.field == "line 3"
    assert told in str(error)


def test_byte_order_mark_blank_lines_and_odd_separators_are_fine(source: Path, tmp_path: Path) -> None:
    record = {**REPORT, "report": "Line one.\u2028Line two.\x85"}
    text = f"\n{json.dumps(record, ensure_ascii=False)}\r\n\n"
    source.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert convert_jsonl(source, tmp_path / "out") == 1
    assert read_prompts(tmp_path / "out")[0].reference.report == record["report"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(source: Path, tmp_path: Path, content: bytes) -> None:
    source.write_bytes(content)
    assert "at least one line" in str(refused(source, tmp_path / "out"))


def test_a_missing_file_is_refused(source: Path, tmp_path: Path) -> None:
    assert refused(source, tmp_path / "out").field == str(source)


def test_an_existing_output_is_left_alone(source: Path, tmp_path: Path) -> None:
    write(source, REPORT)
    convert_jsonl(source, tmp_path / "out")
    before = read_prompts(tmp_path / "out")
    write(source, GROUNDING)
    with pytest.raises(DataError, match="must not exist"):
        convert_jsonl(source, tmp_path / "out")
    assert read_prompts(tmp_path / "out") == before


def test_an_interruption_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source, {**REPORT, "answer": "An answer."})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prompts.jsonl, "write_conversations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_jsonl(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
