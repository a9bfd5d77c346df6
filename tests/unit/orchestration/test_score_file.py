"""``overread rewards score``: what it reads and writes, what it refuses before a service is asked, and its figures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import write_run

from orchestration.score_file import make_job
from orchestration.score_rows import read_rows, results_file
from orchestration.score_tally import Tally
from orchestration.statistics import bootstrap_mean
from rewards.corpus import Counts, Masks, macro_f1, micro_f1
from rewards.scorers.registry import scorers
from rewards.settings import RewardServiceSettings
from rewards.wire import ItemResult
from schemas.errors import ConfigError, DataError
from schemas.group import Score, ScoreError

SECRET = "left pneumothorax of Mrs Example"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "completion": "Clear.", "reference": "Clear lungs.", "patient_id": "p1"},
    {"prediction": "[0, 0, 1, 1]", "boxes": [[0.1, 0.2, 0.3, 0.4]], "box_format": "radvlm"},
]


def json_lines(folder: Path, *lines: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def job(source: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {"scorers": "rouge_l", "out": None, "base": RewardServiceSettings(), "addresses": []}
    options |= {"token_file": None, "params": [], "batch": 4, "as_json": False, **changes}
    return make_job(source, **options)


def result(number: int, score: float | None = None, **details: float) -> ItemResult:
    if score is None:
        return ItemResult(
            id=str(number), scores={}, errors={"chexpert_f1": ScoreError(code="missing_input", message="")}
        )
    return ItemResult(id=str(number), scores={"chexpert_f1": Score(value=score, details=details)}, errors={})


def test_json_lines_are_read_in_order_blank_lines_left_out(tmp_path: Path) -> None:
    path = json_lines(tmp_path, "\ufeff" + json.dumps(ROWS[0]), "", json.dumps(ROWS[1]))
    rows = list(read_rows(path))
    assert [(row.where, row.item.id, row.patient_id) for row in rows] == [("row 1", "a", "p1"), ("row 3", "3", None)]


def test_parquet_rows_are_those_of_the_same_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    names = {name for row in ROWS for name in row}
    pq.write_table(pa.table({name: [row.get(name) for row in ROWS * 600] for name in names}), path)
    rows = list(read_rows(path))
    assert len(rows) == 1200
    same = [row.item.model_copy(update={"id": ""}) for row in read_rows(_as_json(tmp_path))]
    assert [row.item.model_copy(update={"id": ""}) for row in rows] == same * 600
    assert (rows[-1].where, rows[-1].item.id) == ("row 1200", "1200")


def _as_json(folder: Path) -> Path:
    return json_lines(folder, *(json.dumps(row) for row in ROWS))


def test_a_parquet_column_that_is_a_slip_is_refused_and_others_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"completion": ["a"], "reference": ["b"], "image": [b"film"]}), path)
    assert len(list(read_rows(path))) == 1
    pq.write_table(pa.table({"completion": ["a"], "references": ["b"]}), path)
    with pytest.raises(DataError, match="rename it to reference"):
        list(read_rows(path))


def test_the_groups_of_a_run_are_rows_with_their_prompts_references(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1, studies=3)
    rows = list(read_rows(run / "evaluations" / "after.parquet"))
    assert rows
    assert len({row.item.id for row in rows}) == len(rows)
    assert all(row.patient_id and row.item.completion for row in rows)
    grounded = [row.item for row in rows if row.item.task == "grounding"]
    assert all(item.box_format and item.reference.boxes is not None for item in grounded)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("[1]", "row 2: must be one JSON object; given: list"),
        ("{", "row 2: must be one JSON object; given: Expecting property name"),
        ("[" * 100_000, "row 2: must be one JSON object"),
        ('{"completion": "\\ud83d", "reference": "b"}', "row 2: completion: must be whole Unicode characters"),
        (json.dumps({"completion": SECRET}), "row 2: reference: must be given"),
    ],
)
def test_a_bad_line_is_named_and_not_quoted(tmp_path: Path, line: str, says: str) -> None:
    path = json_lines(tmp_path, json.dumps(ROWS[0]), line)
    with pytest.raises(DataError) as error:
        list(read_rows(path))
    assert says in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_a_file_that_is_not_there_is_wrong_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="must be a readable"):
        list(read_rows(tmp_path / name))


def test_a_parquet_file_that_is_none_is_wrong_input(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("not parquet")
    with pytest.raises(DataError, match="must be a readable parquet file"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_results_are_written_whole_or_not_at_all(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    results = [result(1, 0.5, hits=2.0), result(2)]
    with results_file(out) as file:
        file.write(results[:1])
        assert not out.exists()
        file.write(results[1:])
    assert _read(out) == results
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RuntimeError):
        _write_half(out)
    assert _read(out) == results
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208 - hidden files too


def _write_half(out: Path) -> None:
    with results_file(out) as file:
        file.write([result(3, 0.1)])
        raise RuntimeError


def _read(path: Path) -> list[ItemResult]:
    if path.suffix == ".jsonl":
        return [ItemResult.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = pq.read_table(path).to_pylist()
    return [
        ItemResult.model_validate(
            {
                "id": row["id"],
                "scores": {name: {**score, "details": dict(score["details"])} for name, score in row["scores"]},
                "errors": dict(row["errors"]),
            }
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scorers": "rouge_x"}, "did you mean rouge_l?"),
        ({"scorers": ","}, "--scorers: must name scorers"),
        ({"params": ["rouge_l"]}, "--params: must be SCORER.PARAMETER=VALUE"),
        ({"params": ["soft_f1.max_boxes=3"]}, "--params: must be of a scorer that --scorers names"),
        ({"scorers": "soft_f1", "params": ["soft_f1.max_boxes=0"]}, "options: max_boxes"),
        ({"scorers": "soft_f1", "params": ["soft_f1.max_boxs=3"]}, "options: max_boxs"),
        ({"out": Path("/nowhere/at/all.jsonl")}, "mkdir -p /nowhere/at"),
        ({"out": Path("out.csv")}, "--out: must end in .jsonl or .parquet"),
        ({"source": Path("rows.csv")}, "FILE: must end in .jsonl or .parquet"),
    ],
)
def test_a_wrong_option_is_told_at_once(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        job(changes.pop("source", tmp_path / "rows.jsonl"), **changes)
    assert says in str(error.value)


def test_the_file_that_is_scored_is_never_written_over(tmp_path: Path) -> None:
    path = _as_json(tmp_path)
    with pytest.raises(ConfigError, match="--out: must not be the file"):
        job(path, out=tmp_path / "." / path.name)


def test_parameters_go_where_the_scoring_is(tmp_path: Path) -> None:
    params = ["soft_f1.max_boxes=3", "soft_f1.empty_match_value=0.25"]
    local = job(tmp_path / "a.jsonl", scorers="soft_f1", params=params)
    assert local.settings.params["soft_f1"] == {"max_boxes": 3.0, "empty_match_value": 0.25}
    assert local.params == {}  # a local service is started with them
    outside = job(tmp_path / "a.jsonl", scorers="soft_f1", params=params, addresses=["http://127.0.0.1:1"])
    assert outside.params == local.settings.params


def _tally(rows: Iterator[tuple[ItemResult, str | None]]) -> Tally:
    tally = Tally()
    for of, patient in rows:
        tally.add(of, patient)
    return tally


def test_the_summary_is_that_of_all_rows() -> None:
    masks = [Masks(0b011, 0b001), Masks(0b100, 0b110), Masks(0, 0)]
    values = [0.25, 0.5, 1.0]
    scored = [
        (result(n, v, predicted_mask=m.predicted, reference_mask=m.reference), "p1" if n < 2 else "p2")
        for n, (v, m) in enumerate(zip(values, masks, strict=True))
    ]
    summary = _tally(iter([*scored, (result(9), None)])).summary(scorers(), {"chexpert_f1": "1"})
    of = summary["scorers"]["chexpert_f1"]
    expected = bootstrap_mean(values, 0, clusters=["p1", "p1", "p2"])
    assert of == {
        "version": "1",
        "better": "higher",
        "mean": expected.mean,
        "ci95": list(expected.ci95),
        "n": 3,
        "errors": {"missing_input": 1},
    }
    assert summary["corpus"]["chexpert_f1"] == {
        "micro_f1": micro_f1([Counts(1, 1, 0), Counts(1, 0, 1), Counts(0, 0, 0)]),
        "macro_f1": macro_f1(masks),
    }
    assert (summary["rows"], summary["patients"]) == (4, 2)


def test_rows_without_patients_are_resampled_one_by_one() -> None:
    values = [0.0, 1.0, 0.5]
    summary = _tally((result(n, v, predicted_mask=0, reference_mask=0), None) for n, v in enumerate(values)).summary(
        {}, {}
    )
    assert summary["scorers"]["chexpert_f1"]["ci95"] == list(bootstrap_mean(values, 0).ci95)
    assert summary["patients"] is None


def test_a_scorer_without_any_score_has_no_mean() -> None:
    of = _tally(iter([(result(1), None)])).summary({}, {})["scorers"]["chexpert_f1"]
    assert (of["mean"], of["ci95"], of["n"]) == (None, None, 0)
