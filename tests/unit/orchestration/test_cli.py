from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from synthetic_run import write_run
from typer.main import get_command

from orchestration.cli import app, main
from orchestration.ledger import Issue, Ledger
from orchestration.progress import Display

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "recipes" / "phantom-cpu.toml")


Overread = Callable[..., "Done"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def overread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """The command in an empty folder, in this process: an import a test would cost minutes."""
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0o022)  # the command sets its own

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["overread", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    yield run
    os.umask(umask)


def _commands() -> Iterator[tuple[str, Any]]:
    """Every command and every group of commands, by its words."""

    def walk(prefix: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield prefix, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(f"{prefix} {name}".strip(), child)

    yield from walk("", get_command(app))


@pytest.mark.parametrize(
    ("name", "command"), list(_commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_shows_an_example_of_itself_that_parses(name: str, command: Any) -> None:
    epilog = command.epilog or ""
    assert re.search(rf"Example: `overread {re.escape(name)}\b", epilog), f"overread {name} --help has no example"
    words, leaf = _example(command), get_command(app)
    while hasattr(leaf, "commands"):
        leaf = leaf.commands[words.pop(0)]
    leaf.make_context("example", words)  # raises where a word is not understood


def _example(command: Any) -> list[str]:
    """The words after ``overread`` in the example that a command's help prints."""
    return shlex.split(command.epilog.split("`")[1])[1:]


def _write_own_data(folder: Path) -> None:
    """my-data.jsonl: a film to train on, one to evaluate on."""
    from PIL import Image

    Image.new("L", (64, 64), 90).save(folder / "film.png")
    line = {
        "id": "a1",
        "image": "film.png",
        "task": "report",
        "question": "Write a report.",
        "report": "No pneumothorax.",
        "patient_id": "p1",
        "split": "train",
        "answer": "No pneumothorax.",
    }
    held_out = {**line, "id": "a2", "patient_id": "p2", "split": "test"}
    (folder / "my-data.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(held_out)}\n")


def _write_ledger(run: Path) -> Ledger:
    """Of three prompts, one trained on and one dropped."""
    ledger = Ledger(run / "ledger.sqlite")
    for position in range(3):
        ledger.issued(f"g{position}", Issue(position, f"p{position}", 0), 0)
    ledger.trained(1, 0, 1, ["g0"])
    ledger.dropped("g1", "deadline", 1)
    return ledger


@pytest.mark.integration  # builds the tiny model: a quarter of a minute
def test_the_examples_do_what_they_say(tmp_path: Path, overread: Overread) -> None:
    """Those that take no engine and no minutes, as printed, where what they name is there."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    _write_own_data(tmp_path)
    assert overread("data", "phantoms", ".cache/overread/phantoms-2400-0", "--count=4").returncode == 0
    run = write_run(tmp_path / "runs" / "phantom-cpu", steps=4, studies=2)
    _write_ledger(run).close()
    (run / "checkpoints" / "step-000004" / "model").mkdir(parents=True)
    (run / "checkpoints" / "step-000004" / "model" / "config.json").write_text("{}")
    commands = dict(_commands())
    for name in ("data convert", "data phantoms", "data show", "data tiny-model", "plan", "audit", "export", "report"):
        done = overread(*_example(commands[name]))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert done.stdout.strip(), name
    assert overread(*_example(commands["train"]), "--dry-run").returncode == 0
    for made in ("my-prompts/prompts.parquet", "my-phantoms/images", "my-tiny-model/config.json", "report.html"):
        assert (tmp_path / made).exists()
        assert (tmp_path / made).stat().st_mode & 0o077 == 0, f"{made} is not its owner's alone"
    assert (tmp_path / "exported-model" / "config.json").is_file()


def test_an_audit_sees_whole_transactions_of_a_run_that_goes_on(tmp_path: Path, overread: Overread) -> None:
    ledger = _write_ledger(tmp_path)
    writer = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE groups SET state = 'trained'")
    done = overread("audit", str(tmp_path), "--json")
    writer.execute("ROLLBACK")
    writer.close()
    ledger.close()
    assert json.loads(done.stdout)["trained"] == 1


def test_an_audit_of_a_run_killed_inside_a_transaction_leaves_it_as_it_is(tmp_path: Path, overread: Overread) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "killed").mkdir()
    _write_ledger(tmp_path / "live").close()
    writer = sqlite3.connect(tmp_path / "live" / "ledger.sqlite", isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")  # the transaction spills into the file before its end
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE groups SET state = 'trained', worker = hex(zeroblob(20000))")
    for file in (tmp_path / "live").iterdir():  # what a kill leaves: file and journal, and nobody who holds a lock
        shutil.copy(file, tmp_path / "killed")
    writer.execute("ROLLBACK")
    writer.close()
    left = {file.name: file.read_bytes() for file in (tmp_path / "killed").iterdir()}
    assert left.keys() == {"ledger.sqlite", "ledger.sqlite-journal"}
    done = overread("audit", "killed", "--json")
    assert json.loads(done.stdout)["trained"] == 1
    assert {file.name: file.read_bytes() for file in (tmp_path / "killed").iterdir()} == left


def test_an_audit_does_not_wait_for_ever_for_a_run_that_was_halted(
    tmp_path: Path, overread: Overread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.cli._LEDGER_DEADLINE_S", 0.0)
    _write_ledger(tmp_path).close()
    writer = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    done = overread("audit", str(tmp_path))
    writer.close()
    assert done.returncode == 1
    assert "the run that writes it" in done.stderr


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path, overread: Overread) -> None:
    (tmp_path / "ledger.sqlite").write_text("no ledger" * 1000)
    _is_one_line(overread("audit", str(tmp_path)), "ledger.sqlite")


@pytest.mark.parametrize(
    "arguments",
    [("audit",), ("nosuch",), ("data", "phantoms", "out", "--count=0"), ("rewards", "serve", "--bogus")],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line_with_status_2(overread: Overread, arguments: tuple[str, ...]) -> None:
    _is_one_line(overread(*arguments), "--help")


@pytest.mark.parametrize("group", [(), ("data",), ("rewards",)], ids=lambda words: " ".join(words) or "overread")
def test_a_group_without_a_command_prints_its_help(overread: Overread, group: tuple[str, ...]) -> None:
    done = overread(*group)
    assert (done.returncode, done.stderr.strip()) == (2, "")
    assert "Example" in done.stdout


def test_ctrl_c_that_no_session_handles_is_one_line_with_status_1(
    overread: Overread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prompts.phantoms.write_phantoms", interrupt)
    done = overread("data", "phantoms", "out")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "overread: interrupted at once; a run goes on from its last checkpoint with train --resume"
    ]


def test_a_stop_that_the_session_handled_keeps_its_status(
    own_data: Path, overread: Overread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.cli._train", lambda *_: 3)
    assert overread("train", DEMO, f"--data.path={own_data}").returncode == 3


def test_brackets_in_a_path_are_shown_as_they_are() -> None:
    console = Console(file=io.StringIO(), width=200)
    display = Display(console)
    display.note("wrote /data/[x]/[/bold]")
    with display.working("reading [red]"):
        pass
    display.rows("runs/[x]", ["a score with a long name"], [["[b]"]])
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("/data/[x]/[/bold]", "reading [red] ...", "runs/[x]", "[b]"):
        assert text in shown


@pytest.fixture
def own_data(tmp_path: Path, overread: Overread) -> Path:
    """A prompts folder made from JSON lines, with one film that is missing afterwards."""
    _write_own_data(tmp_path)
    assert overread("data", "convert", "jsonl", "my-data.jsonl", "prompts").returncode == 0
    return tmp_path / "prompts"


def _is_one_line(done: Done, *said: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in said:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--learner.learning_rte=1",), ("learner.learning_rte", "learner.learning_rate")),
        (("--learner.clip_low=7",), ("learner.clip_low", "7")),
        (("--model=/no/such/model",), ("model", "/no/such/model")),
        (("--model=nobody/no-such-model",), ("model", "hf download")),
        (("--data.path=nowhere", "--data.phantom_count=0"), ("data.path", "overread data convert")),
        (("--rollout.workers=64",), ("cores", "65")),
        (("--rollout.kv_cache_mib=4000000",), ("plan", "GiB")),
        (("steps=3",), ("steps=3", "--key=value")),
    ],
    ids=lambda value: str(value[0]).split("=")[0],
)
def test_wrong_input_is_one_line_with_status_2_and_leaves_nothing(
    tmp_path: Path, overread: Overread, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    done = overread("train", DEMO, *arguments)
    _is_one_line(done, *said)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_kind_is_refused(tmp_path: Path, overread: Overread) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    _is_one_line(overread("train", DEMO, "--model=other"), "qwen3_vl", "llama")


@pytest.mark.parametrize("content", [b"", b"not parquet"], ids=["empty", "unreadable"])
def test_an_unusable_prompts_file_is_named(tmp_path: Path, overread: Overread, content: bytes) -> None:
    (tmp_path / "prompts.parquet").write_bytes(content)
    done = overread("train", DEMO, "--data.path=prompts.parquet")
    _is_one_line(done, "prompts.parquet")
    assert not (tmp_path / "runs").exists()


def test_a_missing_image_is_named_when_the_data_are_converted(tmp_path: Path, overread: Overread) -> None:
    line = {"id": "a", "image": "gone.png", "task": "report", "question": "q", "report": "r", "patient_id": "p"}
    (tmp_path / "data.jsonl").write_text(json.dumps(line) + "\n")
    _is_one_line(overread("data", "convert", "jsonl", "data.jsonl", "out"), "gone.png", "line 1")
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_gone_is_named_before_the_run_begins(own_data: Path, overread: Overread) -> None:
    (own_data.parent / "film.png").unlink()
    done = overread("train", DEMO, f"--data.path={own_data}")
    _is_one_line(done, "film.png")
    assert not (own_data.parent / "runs").exists()


def test_an_existing_run_folder_is_refused(own_data: Path, overread: Overread) -> None:
    (own_data.parent / "mine").mkdir()
    done = overread("train", DEMO, f"--data.path={own_data}", "--run-dir", "mine")
    _is_one_line(done, "mine", "--resume")


def test_a_taken_port_is_one_line(tmp_path: Path, overread: Overread) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _is_one_line(overread("rewards", "serve", "--port", port), port)


def test_a_reward_service_that_does_not_answer_is_one_line(own_data: Path, overread: Overread) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = overread(
        "train", DEMO, f"--data.path={own_data}", f"--reward.addresses=['{address}']", "--reward.deadline_s=1"
    )
    _is_one_line(done, "reward.addresses", address)
    assert not (own_data.parent / "runs").exists()


def test_a_dry_run_prints_the_plan_and_makes_nothing(tmp_path: Path, overread: Overread) -> None:
    done = overread("train", str(ROOT / "recipes" / "one-gpu.toml"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Qwen/Qwen3-VL-2B-Instruct" in done.stdout
    assert list(tmp_path.iterdir()) == []
