"""Store: prompts and conversations on disk, as parquet.

Role: the only reader and writer of prompts.parquet and conversations.parquet. Input: a file, or the folder that holds
it. Output: nouns with absolute picture paths. On disk, paths below the file's folder are relative, so the folder can
be moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from prompts.atomic import new_file
from schemas.arrow import (
    CONVERSATION_SCHEMA,
    PROMPT_SCHEMA,
    conversations_to_table,
    prompts_to_table,
    table_to_conversations,
    table_to_prompts,
)
from schemas.errors import DataError
from schemas.prompt import Conversation, Prompt, Split, Task

PROMPTS_FILE = "prompts.parquet"
CONVERSATIONS_FILE = "conversations.parquet"
_MAKE_ONE = "make one with `overread data phantoms` or `overread data convert`"

_Row = TypeVar("_Row", Prompt, Conversation)


def read_prompts(path: Path, split: Split | None = None, tasks: Sequence[Task] | None = None) -> list[Prompt]:
    """Read prompts in the file's order.

    Args:
        path: a parquet file, or the folder that holds prompts.parquet.
        split: keep only this one.
        tasks: keep only these.

    Raises:
        DataError: the file is missing, unreadable, of another schema, or names a prompt twice, or nothing is left.
    """
    file = _resolve(path, PROMPTS_FILE)
    prompts = _read(file, PROMPT_SCHEMA, table_to_prompts)
    _refuse_duplicates(file, "prompt_id", (prompt.prompt_id for prompt in prompts))
    kept = [p for p in prompts if (split is None or p.split == split) and (tasks is None or p.task in tasks)]
    if not kept:
        wanted = f"split {split or 'any'}, tasks {', '.join(tasks) if tasks else 'any'}"
        found = ", ".join(sorted({f"{p.split}/{p.task}" for p in prompts})) or "no prompt at all"
        raise DataError(str(file), f"must hold prompts of {wanted}", found, "choose another split or task, or add data")
    return [_with_paths(prompt, file.parent, _absolute) for prompt in kept]


def read_conversations(path: Path, split: Split | None = None) -> list[Conversation]:
    """Read SFT conversations in the file's order; like ``read_prompts`` otherwise."""
    file = _resolve(path, CONVERSATIONS_FILE)
    conversations = _read(file, CONVERSATION_SCHEMA, table_to_conversations)
    _refuse_duplicates(file, "conversation_id", (c.conversation_id for c in conversations))
    kept = [c for c in conversations if split is None or c.split == split]
    if not kept:
        found = ", ".join(sorted({c.split for c in conversations})) or "no conversation at all"
        raise DataError(
            str(file), f"must hold conversations of split {split or 'any'}", found, "choose another split, or add data"
        )
    return [_with_paths(conversation, file.parent, _absolute) for conversation in kept]


def write_prompts(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write a prompts file; it appears whole or not at all.

    Raises:
        DataError: a prompt_id occurs twice, or the folder can't be written to.
    """
    rows = list(prompts)
    _refuse_duplicates(path, "prompt_id", (prompt.prompt_id for prompt in rows))
    _write(path, prompts_to_table(_with_paths(row, path.absolute().parent, _relative) for row in rows))


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write a conversations file; like ``write_prompts``."""
    rows = list(conversations)
    _refuse_duplicates(path, "conversation_id", (c.conversation_id for c in rows))
    _write(path, conversations_to_table(_with_paths(row, path.absolute().parent, _relative) for row in rows))


def _resolve(path: Path, name: str) -> Path:
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise DataError(str(file), "the file must exist", "it does not", _MAKE_ONE)
    return file.absolute()


def _read(file: Path, schema: pa.Schema, to_rows: Callable[[pa.Table], list[_Row]]) -> list[_Row]:
    try:
        with pq.ParquetFile(file) as parquet:
            missing = [name for name in schema.names if name not in parquet.schema_arrow.names]
            table = None if missing else parquet.read(columns=schema.names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(str(file), "must be a readable parquet file", type(error).__name__, _MAKE_ONE) from error
    if table is None:
        raise DataError(str(file), "must have Overread's columns", f"no column {', '.join(missing)}", _MAKE_ONE)
    try:
        return to_rows(table.cast(schema))
    except (pa.ArrowException, ValueError) as error:
        # ValidationError is a ValueError. Its text quotes the row, so only the places are told.
        given = type(error).__name__
        if isinstance(error, ValidationError):
            given = "; ".join(".".join(map(str, e["loc"])) + f": {e['type']}" for e in error.errors()[:3])
        raise DataError(str(file), "every row must fit Overread's schema", given, _MAKE_ONE) from error


def _write(path: Path, table: pa.Table) -> None:
    with new_file(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")


def _refuse_duplicates(file: Path, field: str, identifiers: Iterable[str]) -> None:
    repeated = [identifier for identifier, count in Counter(identifiers).items() if count > 1]
    if repeated:
        given = f"{len(repeated)} occur more than once, first {repeated[0]!r}"
        raise DataError(f"{file}: {field}", "must be unique", given, "give each row its own")


def _with_paths(row: _Row, folder: Path, convert: Callable[[Path, Path], Path]) -> _Row:
    images = tuple(
        image if image.path is None else image.model_copy(update={"path": str(convert(folder, Path(image.path)))})
        for image in row.images
    )
    return row.model_copy(update={"images": images})


def _absolute(folder: Path, path: Path) -> Path:
    return folder / path


def _relative(folder: Path, path: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path
