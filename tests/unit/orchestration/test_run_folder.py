from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestration.config import Recipe, validate_recipe
from orchestration.ledger import Issue
from orchestration.run import Checkpoint, RunFolder
from schemas.errors import ConfigError


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return validate_recipe(
        {
            "name": "t",
            "runs_dir": str(tmp_path / "runs"),
            "steps": 3,
            "keep_checkpoints": 2,
            "data": {"path": "nowhere"},
            "reward": {},
        }
    )


def _publish(run: RunFolder, step: int) -> Path:
    folder = run.new_checkpoint_folder(step)
    (folder / "learner").mkdir()
    return run.publish_checkpoint(folder, Checkpoint(step, step, 0, {"cursor": step}, (Issue(step, "p", 0),)))


def test_a_second_run_gets_a_folder_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    names = [RunFolder.create(recipe, None, []).path.name for _ in range(3)]
    assert names == ["t", "t-2", "t-3"]


def test_an_existing_run_dir_is_refused_with_the_way_to_resume(recipe: Recipe, tmp_path: Path) -> None:
    RunFolder.create(recipe, tmp_path / "mine", [])
    with pytest.raises(ConfigError, match="--resume"):
        RunFolder.create(recipe, tmp_path / "mine", [])


def test_run_folders_are_for_their_owner_only(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    run.event("x")
    folders = [run.path, *(p for p in run.path.iterdir() if p.is_dir())]
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
    assert (run.path / "config.toml").stat().st_mode & 0o077 == 0
    assert (run.path / "events.jsonl").stat().st_mode & 0o077 == 0


def test_a_checkpoint_comes_back_as_it_was_and_old_ones_go(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    for step in (1, 2, 3):
        _publish(run, step)
    assert [p.name for p in run.checkpoints()] == ["step-000002", "step-000003"]
    latest = run.latest_checkpoint()
    assert latest is not None
    assert Checkpoint.read(latest) == Checkpoint(3, 3, 0, {"cursor": 3}, (Issue(3, "p", 0),))


def test_a_half_written_checkpoint_is_not_seen(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    _publish(run, 1)
    run.new_checkpoint_folder(2)  # a kill while the learner writes leaves this
    (run.path / "checkpoints" / "step-000003").mkdir()  # and this is what a foreign tool might leave
    latest = RunFolder.reopen(run.path).latest_checkpoint()
    assert latest is not None
    assert latest.name == "step-000001"


def test_reopening_something_else_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a run folder"):
        RunFolder.reopen(tmp_path)


def test_what_happened_behind_a_restored_step_is_set_aside_and_kept(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    for step in (1, 2, 3):
        run.metrics({"step": step, "loss": 0.5})
        run.step_path(step).write_bytes(b"x")
    for name in ("before.json", "after.json", "step-000002.json", "step-000003.json"):
        (run.path / "evaluations" / name).write_text("{}")
    run.abandon_after(2)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("abandoned", False) for line in lines] == [False, False, True]
    assert [p.name for p in sorted(run.path.glob("rollouts/*.parquet"))] == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    assert [p.name for p in sorted(run.path.glob("evaluations/*.json"))] == ["before.json", "step-000002.json"]
    assert len(list(run.path.glob("*/abandoned/*"))) == 3


def test_a_torn_last_line_is_cut_when_a_run_is_reopened(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    run.metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run = RunFolder.reopen(run.path)
    run.metrics({"step": 2})
    assert [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_an_evaluations_keys_join_the_surviving_line_of_their_step(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    run.metrics({"step": 1})
    run.abandon_after(0)
    run.metrics({"step": 1})
    run.amend_metrics(1, {"eval/d/soft_f1": 0.5})
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert ["eval/d/soft_f1" in line for line in lines] == [False, True]


def test_a_metric_that_is_not_a_number_is_refused(recipe: Recipe) -> None:
    run = RunFolder.create(recipe, None, [])
    with pytest.raises(ValueError, match="JSON"):
        run.metrics({"loss": float("nan")})
