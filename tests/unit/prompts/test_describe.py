from __future__ import annotations

from pathlib import Path

import pytest
from prompt_cases import CONFIDENTIAL, make_conversation, make_prompt

from prompts.describe import describe
from prompts.store import write_conversations, write_prompts
from schemas.errors import DataError


def test_counts_are_those_of_the_file(tmp_path: Path) -> None:
    rows = [
        make_prompt(1, image="a.png"),
        make_prompt(2, image="a.png"),
        make_prompt(3, "test", "grounding", image="b.png"),
        make_prompt(4, "test", "grounding"),
    ]
    write_prompts(tmp_path / "prompts.parquet", rows)
    write_conversations(tmp_path / "conversations.parquet", [make_conversation(index) for index in (1, 2, 3)])
    summary = describe(tmp_path)
    assert summary.prompts == 4
    assert summary.splits["train"].model_dump() == {
        "prompts": 2,
        "patients": 2,
        "studies": 2,
        "conversations": 3,
        "tasks": {"report": 2},
        "datasets": {"cases": 2},
    }
    assert summary.splits["test"].tasks == {"grounding": 2}
    assert summary.picture_sizes == {"4 x 3": 2}
    assert summary.prompts_without_picture == 1
    assert summary.boxes is not None
    assert (summary.boxes.boxes, summary.boxes.labels) == (2, {"nodule": 2})
    assert summary.boxes.width is not None
    assert summary.boxes.width.median == pytest.approx(0.2)
    assert summary.report_words is not None
    assert summary.report_words.greatest == len(CONFIDENTIAL.split())
    assert summary.patients_in_several_splits == 0


def test_a_patient_in_two_splits_is_counted_and_namesakes_of_other_data_sets_are_not(tmp_path: Path) -> None:
    leak = make_prompt(3, "test").model_copy(update={"patient_id": "patient-1"})
    namesake = make_prompt(4, "test").model_copy(update={"patient_id": "patient-2", "dataset": "other"})
    write_prompts(tmp_path / "prompts.parquet", [make_prompt(1), make_prompt(2), leak, namesake])
    assert describe(tmp_path / "prompts.parquet").patients_in_several_splits == 1


def test_no_text_is_told(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.parquet", [make_prompt(1)])
    told = describe(tmp_path).model_dump_json()
    assert CONFIDENTIAL not in told
    assert make_prompt(1).question not in told


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.parquet", [make_prompt(1)])
    assert describe(tmp_path).boxes is None
    write_prompts(tmp_path / "prompts.parquet", [make_prompt(1, task="grounding")])
    assert describe(tmp_path).report_words is None


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must exist"):
        describe(tmp_path)
