"""The run folder: everything that a run leaves behind, written so that a kill never leaves half a file.

Role: create or reopen runs/<name>/; append metrics and events; keep checkpoints.
Layout: config.toml, metrics.jsonl, events.jsonl, ledger.sqlite, rollouts/, checkpoints/, evaluations/, logs/,
summary.json, report.html. Folders are 0700: they hold reports and pictures' paths (promise 9).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.config import Recipe, load_recipe, to_toml
from orchestration.files import cut_torn_line, open_private, read_json_lines, sync_folder, write_atomically
from orchestration.ledger import Issue, Ledger
from schemas.errors import ConfigError

_SUBFOLDERS = ("rollouts", "checkpoints", "evaluations", "logs")


@dataclass(frozen=True)
class Checkpoint:
    """The driver's half of a checkpoint: what to issue next, and at which version and incarnation the run stands."""

    step: int
    version: int
    incarnation: int
    cursor: dict[str, int]
    open_issues: tuple[Issue, ...]

    @staticmethod
    def read(folder: Path) -> Checkpoint:
        """Raises ConfigError when the folder holds no whole checkpoint."""
        path = folder / "driver.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            issues = tuple(Issue(**issue) for issue in state.pop("open_issues"))
            return Checkpoint(**state, open_issues=issues)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                str(path), "must be a checkpoint's driver state", type(error).__name__, "use an older one"
            ) from error

    def write(self, folder: Path) -> None:
        state = {
            "step": self.step,
            "version": self.version,
            "incarnation": self.incarnation,
            "cursor": self.cursor,
            "open_issues": [vars(issue) for issue in self.open_issues],
        }
        write_atomically(folder / "driver.json", json.dumps(state))


class RunFolder:
    """Paths and append-only files of one run."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.recipe = recipe
        self.ledger = Ledger(path / "ledger.sqlite")

    @staticmethod
    def create(recipe: Recipe, run_dir: Path | None, header: Sequence[str]) -> RunFolder:
        """A new folder: ``run_dir``, or the first free of runs_dir/name, name-2, name-3, ...

        Raises:
            ConfigError: ``run_dir`` exists already, or can't be made.
        """
        path = run_dir or _free_folder(Path(recipe.runs_dir) / recipe.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(mode=0o700)
        except FileExistsError as error:
            remedy = f"choose another --run-dir, or go on with: overread train --resume {path}"
            raise ConfigError("--run-dir", "must not exist yet", path, remedy) from error
        except OSError as error:
            raise ConfigError(
                "--run-dir", f"can't be made ({error.strerror})", path, "choose another --run-dir"
            ) from error
        for name in _SUBFOLDERS:
            (path / name).mkdir(mode=0o700)
        write_atomically(path / "config.toml", to_toml(recipe, header))
        return RunFolder(path.resolve(), recipe)

    @staticmethod
    def reopen(path: Path) -> RunFolder:
        """An existing folder, after a stop or a crash. Raises ConfigError when it is none."""
        if not (path / "config.toml").is_file():
            raise ConfigError("--resume", "must be a run folder", path, "give the folder that holds config.toml")
        for name in ("metrics.jsonl", "events.jsonl"):
            cut_torn_line(path / name)
        return RunFolder(path.resolve(), load_recipe(path / "config.toml", {}))

    def event(self, kind: str, **fields: Any) -> None:
        """Append a fault, restart, push or evaluation to events.jsonl. Numbers, names and causes only, never text."""
        self._append("events.jsonl", {"time": time.time(), "kind": kind, **fields})

    def metrics(self, line: Mapping[str, float | int | None]) -> None:
        """Append one step's line to metrics.jsonl."""
        self._append("metrics.jsonl", line)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        with open_private(self.path / name, "a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def step_path(self, step: int) -> Path:
        return self.path / "rollouts" / f"step-{step:06d}.parquet"

    def checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def new_checkpoint_folder(self, step: int) -> Path:
        """An empty temporary folder beside the checkpoint's final place."""
        temporary = self.path / "checkpoints" / f".step-{step:06d}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        return temporary

    def publish_checkpoint(self, temporary: Path, checkpoint: Checkpoint) -> Path:
        """Add the driver's state, make the folder appear whole, and remove old checkpoints."""
        checkpoint.write(temporary)
        sync_folder(temporary)
        final = self.checkpoint_path(checkpoint.step)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(final.parent)
        for old in self.checkpoints()[: -self.recipe.keep_checkpoints]:
            shutil.rmtree(old)
        return final

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = sorted((self.path / "checkpoints").glob("step-*"))
        return [folder for folder in found if (folder / "driver.json").is_file()]

    def latest_checkpoint(self) -> Path | None:
        return next(reversed(self.checkpoints()), None)

    def amend_metrics(self, step: int, extra: Mapping[str, float]) -> None:
        """Add an evaluation's keys to the surviving line of ``step``."""
        lines = read_json_lines(self.path / "metrics.jsonl")
        own = next(line for line in reversed(lines) if line["step"] == step)
        own.update(extra)
        self._rewrite_metrics(lines)

    def abandon_after(self, step: int) -> None:
        """Set aside what happened behind a restored step: metrics are marked, files get a folder of their own.

        Nothing is deleted; viewers skip the marked lines and the folders.
        """
        lines = read_json_lines(self.path / "metrics.jsonl")
        self._rewrite_metrics([{**line, "abandoned": True} if line["step"] > step else line for line in lines])
        unfinished = step < self.recipe.steps
        for path in [*(self.path / "rollouts").iterdir(), *(self.path / "evaluations").iterdir()]:
            number = _step_of(path.stem)
            if path.is_file() and (path.stem == "after" and unfinished if number is None else number > step):
                aside = path.parent / "abandoned"
                aside.mkdir(mode=0o700, exist_ok=True)
                path.rename(aside / f"{path.stem}-{time.time_ns()}{path.suffix}")

    def _rewrite_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _step_of(stem: str) -> int | None:
    """The number in ``step-000061``; None for another name."""
    number = stem.removeprefix("step-")
    return int(number) if number != stem and number.isdigit() else None


def _free_folder(wanted: Path) -> Path:
    number = 2
    candidate = wanted
    while candidate.exists():
        candidate = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return candidate
