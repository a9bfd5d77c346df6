from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_cases import CONFIDENTIAL, make_conversation, make_prompt

import prompts.store
from prompts.store import read_conversations, read_prompts, write_conversations, write_prompts
from schemas.arrow import PROMPT_SCHEMA, prompts_to_table
from schemas.errors import DataError


def test_what_is_written_is_read_back_in_order(tmp_path: Path) -> None:
    rows = [make_prompt(3), make_prompt(1, "test", "grounding"), make_prompt(2, "validation")]
    write_prompts(tmp_path / "prompts.parquet", rows)
    assert read_prompts(tmp_path) == rows
    assert read_prompts(tmp_path / "prompts.parquet") == rows
    talks = [make_conversation(2), make_conversation(1, "test")]
    write_conversations(tmp_path / "conversations.parquet", talks)
    assert read_conversations(tmp_path) == talks
    assert read_conversations(tmp_path, split="test") == talks[1:]


def test_split_and_tasks_choose(tmp_path: Path) -> None:
    write_prompts(
        tmp_path / "prompts.parquet", [make_prompt(1), make_prompt(2, "test"), make_prompt(3, "test", "grounding")]
    )
    assert [row.prompt_id for row in read_prompts(tmp_path, split="test")] == ["prompt-2", "prompt-3"]
    assert [row.prompt_id for row in read_prompts(tmp_path, "test", ["grounding"])] == ["prompt-3"]
    with pytest.raises(DataError, match=r"validation.*test/grounding, test/report, train/report"):
        read_prompts(tmp_path, split="validation")


def test_pictures_move_with_their_folder(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere" / "b.png")
    first = tmp_path / "first"
    rows = [make_prompt(1, image="images/a.png"), make_prompt(2, image=elsewhere)]
    write_prompts(first / "prompts.parquet", rows)
    read = read_prompts(first)
    assert [row.images[0].path for row in read] == [str(first / "images/a.png"), elsewhere]
    write_prompts(first / "prompts.parquet", read)
    shutil.move(first, tmp_path / "second")
    moved = [row.images[0].path for row in read_prompts(tmp_path / "second")]
    assert moved == [str(tmp_path / "second" / "images/a.png"), elsewhere]


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="overread data") as caught:
        read_prompts(tmp_path)
    assert caught.value.field == str(tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match=r"conversations\.parquet"):
        read_conversations(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 64 + b"PAR1"])
def test_an_unreadable_file_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts.parquet").write_bytes(content)
    with pytest.raises(DataError, match="readable parquet"):
        read_prompts(tmp_path)


def test_a_truncated_file_is_a_data_error(tmp_path: Path) -> None:
    file = tmp_path / "prompts.parquet"
    write_prompts(file, [make_prompt(index) for index in range(50)])
    whole = file.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError):
            read_prompts(tmp_path)


def test_a_file_without_prompts_is_a_data_error(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.parquet", [])
    with pytest.raises(DataError, match="no prompt at all"):
        read_prompts(tmp_path)


def test_another_schema_names_the_missing_columns(tmp_path: Path) -> None:
    table = prompts_to_table([make_prompt(1)]).drop_columns(["reference", "split"])
    pq.write_table(table, tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match="no column reference, split"):
        read_prompts(tmp_path)
    other_types = pa.table({name: [1] for name in PROMPT_SCHEMA.names})
    pq.write_table(other_types, tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match="must fit"):
        read_prompts(tmp_path)


def test_a_bad_row_is_told_without_its_text(tmp_path: Path) -> None:
    table = prompts_to_table([make_prompt(1)])
    column = table.schema.get_field_index("task")
    pq.write_table(table.set_column(column, table.schema.field("task"), [[CONFIDENTIAL]]), tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match="task: literal_error") as caught:
        read_prompts(tmp_path)
    assert CONFIDENTIAL not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_repeated_ids_are_refused_on_both_ways(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prompt-1"):
        write_prompts(tmp_path / "prompts.parquet", [make_prompt(1), make_prompt(1)])
    pq.write_table(prompts_to_table([make_prompt(1), make_prompt(1)]), tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match="unique"):
        read_prompts(tmp_path)


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompts.parquet"
    write_prompts(file, [make_prompt(1)])

    def half(table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prompts.store.pq, "write_table", half)
    with pytest.raises(OSError, match="No space"):
        write_prompts(file, [make_prompt(2)])
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.parquet"]
    assert read_prompts(tmp_path) == [make_prompt(1)]
