"""The files of ``overread rewards score``: rows to score, and the results row by row.

Role: streams a .jsonl or .parquet file (loose columns, wire items, or groups that a run recorded) and writes results.
Input: a path. Output: ScoreRows in the file's order; an output file that is whole or not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orchestration.files import open_private, sync_folder
from rewards.client import group_request
from rewards.rows import ROW_COLUMNS, item_from_row
from rewards.wire import Item, ItemResult
from schemas.arrow import GROUP_SCHEMA, table_to_groups
from schemas.errors import ConfigError, DataError

SUFFIXES = (".jsonl", ".parquet")
PATIENT = "patient_id"
_KNOWN = (*ROW_COLUMNS, PATIENT)
_ROWS_AT_ONCE = 512  # of a parquet file in memory
_GROUPS_AT_ONCE = 16  # each holds its completions, and its films where they are not paths
_WRITTEN_AT_ONCE = 8192  # rows of a parquet row group
_JSON_OBJECT = 'a row is one JSON object, e.g. {"completion": "...", "reference": "..."}'

_COMPLETION = GROUP_SCHEMA.field("completions").type.value_type
_RESULT_SCHEMA = pa.schema(
    [pa.field("id", pa.string(), nullable=False), _COMPLETION.field("scores"), _COMPLETION.field("errors")]
)


@dataclass(frozen=True)
class ScoreRow:
    """One completion to score, where it stands, and whose it is."""

    where: str
    item: Item
    patient_id: str | None


def check_suffix(field: str, path: Path) -> None:
    """Raises ConfigError for a path that is neither .jsonl nor .parquet."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(field, f"must end in {' or '.join(SUFFIXES)}", path, "give such a file")


def read_rows(path: Path) -> Iterator[ScoreRow]:
    """The rows of a file, a few at a time.

    Raises:
        DataError: the file can't be read, or a row breaks a rule.
    """
    try:
        yield from _json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)
    except (OSError, pa.ArrowException) as error:
        rule = f"must be a readable {path.suffix.removeprefix('.')} file"
        raise DataError(str(path), rule, type(error).__name__, "check the path and how it was written") from error


def _json_rows(path: Path) -> Iterator[ScoreRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if content.strip():
                yield _row(_json_object(content, f"row {number}"), number)


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise DataError(where, "must be UTF-8", f"a wrong byte at {error.start}", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        given = f"{error.msg} at column {error.colno}"
        raise DataError(where, "must be one JSON object", given, _JSON_OBJECT) from None
    except RecursionError:
        raise DataError(where, "must be one JSON object", "too deep nesting", _JSON_OBJECT) from None
    if not isinstance(value, dict):
        raise DataError(where, "must be one JSON object", type(value).__name__, _JSON_OBJECT)
    return value


def _parquet_rows(path: Path) -> Iterator[ScoreRow]:
    with pq.ParquetFile(path) as file:
        columns = file.schema_arrow.names
        if {"group_id", "prompt", "completions"} <= set(columns):
            yield from _group_rows(file, columns)
            return
        # A column that is not ours may hold a film: only slips of a known name are read, to be refused.
        chosen = [name for name in columns if name in _KNOWN]
        slips = {name: True for name in columns if name not in _KNOWN}
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=chosen):
            for values in batch.to_pylist():
                number += 1
                yield _row({**values, **slips}, number)


def _row(values: dict[str, Any], number: int) -> ScoreRow:
    where = f"row {number}"
    patient = values.get(PATIENT)
    item = item_from_row(values, where, str(number), known=(PATIENT,))
    return ScoreRow(where, item, None if patient is None else str(patient))


def _group_rows(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[ScoreRow]:
    """Every completion of a run's rollouts/step-*.parquet, against its prompt's reference."""
    missing = [name for name in GROUP_SCHEMA.names if name not in columns]
    if missing:
        remedy = "give a file of a run's rollouts/ or evaluations/ folder"
        raise DataError("columns", "must be those of recorded groups", f"no {', '.join(missing)}", remedy)
    number = 0
    for batch in file.iter_batches(batch_size=_GROUPS_AT_ONCE, columns=GROUP_SCHEMA.names):
        for group in table_to_groups(pa.Table.from_batches([batch])):
            number += 1
            for item in group_request(group, (), {}).items:
                named = item.model_copy(update={"id": f"{group.group_id}/{item.id}"})
                yield ScoreRow(f"row {number} completion {item.id}", named, group.prompt.patient_id)


class Results(Protocol):
    """Where results go, in the order of the rows."""

    def write(self, results: Sequence[ItemResult]) -> None: ...


class _Nowhere:
    def write(self, results: Sequence[ItemResult]) -> None:
        """Without --out only the summary is kept."""


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = open_private(path, "w")

    def write(self, results: Sequence[ItemResult]) -> None:
        self._file.writelines(f"{result.model_dump_json()}\n" for result in results)

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        open_private(path, "w").close()  # so that it is the owner's alone from the start
        self._writer = pq.ParquetWriter(path, _RESULT_SCHEMA)
        self._waiting: list[dict[str, Any]] = []

    def write(self, results: Sequence[ItemResult]) -> None:
        self._waiting += [result.model_dump() for result in results]
        if len(self._waiting) >= _WRITTEN_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=_RESULT_SCHEMA))
        self._waiting.clear()

    def close(self) -> None:
        self._flush()
        self._writer.close()


@contextmanager
def results_file(path: Path | None) -> Iterator[Results]:
    """Results under a temporary name, which becomes ``path`` when the block ends well; else nothing is left."""
    if path is None:
        yield _Nowhere()
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = _JsonLines(temporary) if path.suffix == ".jsonl" else _Parquet(temporary)
    try:
        try:
            yield writer
        finally:
            writer.close()
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
