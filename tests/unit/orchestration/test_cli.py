from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from orchestration.cli import app, main

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "recipes" / "phantom-cpu.toml")


Overread = Callable[..., "Done"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def overread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in an empty folder, in this process: an import a test would cost minutes."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["overread", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return run


def _commands() -> Iterator[tuple[str, object]]:
    def walk(prefix: str, command: object) -> Iterator[tuple[str, object]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield prefix, command
            return
        for name, child in inner.items():
            yield from walk(f"{prefix} {name}".strip(), child)

    yield from walk("", get_command(app))


@pytest.mark.parametrize(
    ("name", "command"), list(_commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_shows_an_example_of_itself(name: str, command: object) -> None:
    epilog = getattr(command, "epilog", None) or ""
    assert re.search(rf"Example: `overread {re.escape(name)}\b", epilog), f"overread {name} --help has no example"


@pytest.fixture
def own_data(tmp_path: Path, overread: Overread) -> Path:
    """A prompts folder made from JSON lines, with one film that is missing afterwards."""
    from PIL import Image

    Image.new("L", (64, 64), 90).save(tmp_path / "film.png")
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
    (tmp_path / "data.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(held_out)}\n")
    assert overread("data", "convert", "jsonl", "data.jsonl", "prompts").returncode == 0
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
