"""``overread rewards score`` against real services: results, figures, exit status, and what a signal leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_scorer import PLUGIN, SECRET
from rewards_server import READY_S, REPOSITORY, TOKEN, Server, free_port, group, wait_for_pending

from orchestration.cli import main
from schemas.arrow import step_table

pytestmark = pytest.mark.integration

CONFIG = f'plugins = ["{PLUGIN}"]\nscorers = ["made_up", "rouge_l", "soft_f1"]\nworkers = 1\nmax_text_chars = 1000\n'
REPORTS = [("testing one two", "testing two", 0.8), ("a b", "a b", 1.0), ("nothing", "alike here", 0.0)]


@dataclass
class Done:
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("rewards"), config=CONFIG)
    yield started
    started.stop(signal.SIGKILL)


@pytest.fixture
def score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """The command in this process: an import a test would cost minutes."""
    umask = os.umask(0o022)  # the command sets its own

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["overread", "rewards", "score", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    yield run
    os.umask(umask)


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reports(count: int) -> list[dict[str, Any]]:
    rows = [REPORTS[index % len(REPORTS)] for index in range(count)]
    return [{"id": f"r{n}", "completion": row[0], "reference": row[1]} for n, row in enumerate(rows)]


def at(server: Server, folder: Path) -> list[object]:
    token = folder / "token"
    token.write_text(TOKEN)
    return ["--address", server.address, "--token-file", token]


def waiting(path: Path) -> list[dict[str, Any]]:
    """Rows whose scores come once a file is there."""
    return [{"completion": f"wait {path}", "boxes": [], "box_format": "radvlm"}]


def test_every_row_gets_its_result_in_the_order_of_the_file(
    server: Server, tmp_path: Path, score: Callable[..., Done]
) -> None:
    source = json_lines(tmp_path / "rows.jsonl", reports(40))
    out = tmp_path / "out.jsonl"
    done = score(source, "--scorers", "rouge_l", "--batch", 3, "--out", out, "--json", *at(server, tmp_path))
    assert done.status == 0, done.err
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in written] == [f"r{n}" for n in range(40)]
    values = [row["scores"]["rouge_l"]["value"] for row in written]
    assert values == pytest.approx([REPORTS[n % 3][2] for n in range(40)])
    summary = json.loads(done.out)
    assert summary["rows"] == summary["scorers"]["rouge_l"]["n"] == 40
    assert summary["scorers"]["rouge_l"]["mean"] == pytest.approx(sum(values) / 40)
    low, high = summary["scorers"]["rouge_l"]["ci95"]
    assert low < sum(values) / 40 < high
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_parquet_file_gives_the_results_of_the_same_json_lines(
    server: Server, tmp_path: Path, score: Callable[..., Done]
) -> None:
    rows = [{**row, "film": b"not read"} for row in reports(10)]
    source, out = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    assert score(source, "--scorers", "rouge_l", "--out", out, *at(server, tmp_path)).status == 0
    written = pq.read_table(out).to_pylist()
    assert [row["id"] for row in written] == [f"r{n}" for n in range(10)]
    scores = [dict(row["scores"])["rouge_l"]["value"] for row in written]
    assert scores == pytest.approx([REPORTS[n % 3][2] for n in range(10)])


def test_a_runs_rollouts_are_scored_against_their_prompts(
    server: Server, tmp_path: Path, score: Callable[..., Done]
) -> None:
    source, out = tmp_path / "step-000001.parquet", tmp_path / "out.jsonl"
    groups = [group(["At [0.1, 0.2, 0.3, 0.4].", "No."]), group(["[0.1, 0.2, 0.3, 0.4] [0.5, 0.5, 0.6, 0.6]"])]
    pq.write_table(step_table(1, groups, None, None), source)
    done = score(source, "--scorers", "soft_f1", "--out", out, *at(server, tmp_path))
    assert done.status == 0, done.err
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in written] == ["g1/0", "g1/1", "g1/0"]
    assert [row["scores"]["soft_f1"]["value"] for row in written] == pytest.approx([1.0, 0.0, 2 / 3])


def test_a_failed_score_is_counted_by_its_code_and_is_no_number(
    server: Server, tmp_path: Path, score: Callable[..., Done]
) -> None:
    rows = [{"completion": text, "boxes": [], "box_format": "radvlm"} for text in ("xx", "", "xxxx")]
    out = tmp_path / "out.jsonl"
    done = score(
        json_lines(tmp_path / "rows.jsonl", rows), "--scorers", "made_up", "--out", out, *at(server, tmp_path), "--json"
    )
    of = json.loads(done.out)["scorers"]["made_up"]
    assert (of["mean"], of["n"], of["errors"]) == (0.375, 2, {"scorer_failed": 1})
    failed = json.loads(out.read_text().splitlines()[1])
    assert failed["scores"] == {}
    assert failed["errors"]["made_up"]["code"] == "scorer_failed"


def test_without_an_address_a_service_is_started_and_ended(tmp_path: Path, score: Callable[..., Done]) -> None:
    rows = [{"completion": "None.", "boxes": [], "box_format": "radvlm"}, *reports(3)]
    before = set(psutil.Process().children(recursive=True))
    done = score(
        json_lines(tmp_path / "rows.jsonl", rows), "--scorers", "soft_f1,rouge_l,chexpert_f1",
        "--params", "soft_f1.empty_match_value=0.25",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "0.2500 [0.2500, 0.2500]" in done.out
    assert "micro_f1" in done.out
    assert "wrong_task: rouge_l does not score the task grounding" in done.out
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_scorer_without_its_weights_is_refused_with_the_remedy(tmp_path: Path, score: Callable[..., Done]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[models.chexbert]\nfolder = "{tmp_path}"\n')
    source = json_lines(tmp_path / "rows.jsonl", reports(1))
    done = score(source, "--scorers", "chexbert_f1", "--config", config)
    assert done.status == 2
    assert "--scorers: must name scorers that the service has ready; given: chexbert_f1" in done.err
    assert "reward.models.chexbert.folder" in done.err
    assert done.err.count("\n") == 1


def test_what_the_service_refuses_is_the_users_to_mend(
    server: Server, tmp_path: Path, score: Callable[..., Done]
) -> None:
    source, out = json_lines(tmp_path / "rows.jsonl", reports(1)), tmp_path / "out.jsonl"
    unknown = score(source, "--scorers", "gleu", *at(server, tmp_path))
    assert (unknown.status, unknown.out) == (2, "")
    assert "--scorers" in unknown.err
    assert "has no scorer gleu" in unknown.err
    (tmp_path / "other").write_text("wrong")
    wrong = score(source, "--address", server.address, "--token-file", tmp_path / "other")
    assert wrong.status == 2
    assert "--token-file: must fit the service" in wrong.err
    rows = [*reports(4), {"completion": "b", "reference": SECRET * 40}]
    long = score(
        json_lines(tmp_path / "long.jsonl", rows), "--scorers", "rouge_l", "--out", out, "--batch", 2,
        *at(server, tmp_path),
    )  # fmt: skip
    assert long.status == 2
    assert f"row 5: reference.report: at most 1000 characters; given: {len(SECRET) * 40}" in long.err
    assert SECRET not in long.err
    assert not out.exists()


def test_a_bad_row_is_told_before_a_service_is_looked_for(tmp_path: Path, score: Callable[..., Done]) -> None:
    source = json_lines(tmp_path / "rows.jsonl", [*reports(2), {"completion": SECRET}])
    done = score(source, "--scorers", "rouge_l", "--address", f"http://127.0.0.1:{free_port()}")
    assert done.status == 2
    assert done.err.startswith("overread: row 3: reference: must be given, or boxes, or labels; given: nothing; ")
    assert SECRET not in done.err
    assert done.err.count("\n") == 1


def test_a_file_without_rows_is_wrong_input(tmp_path: Path, score: Callable[..., Done]) -> None:
    done = score(json_lines(tmp_path / "rows.jsonl", []), "--scorers", "rouge_l")
    assert (done.status, "must hold at least one row" in done.err) == (2, True)


def test_a_service_that_does_not_answer_is_a_failure(tmp_path: Path, score: Callable[..., Done]) -> None:
    config, out = tmp_path / "config.toml", tmp_path / "out.jsonl"
    config.write_text("deadline_s = 1.0\n")
    address = f"http://127.0.0.1:{free_port()}"
    done = score(
        json_lines(tmp_path / "rows.jsonl", reports(1)), "--config", config, "--address", address, "--out", out
    )
    assert done.status == 1
    assert address in done.err
    assert done.err.count("\n") == 1
    assert not out.exists()


class Command:
    """The command in a process of its own, scoring rows that nobody lets finish."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.out = folder / "out.jsonl"
        source = json_lines(folder / "rows.jsonl", waiting(folder / "never") * 3)
        command = [sys.executable, "-m", "orchestration.cli", "rewards", "score", source, "--out", self.out]
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, arguments)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def wait_until_it_writes(self) -> None:
        deadline = time.monotonic() + READY_S
        while not list(self.out.parent.glob(".out.jsonl.*")):
            assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line_and_nothing_half_written(tmp_path: Path, number: signal.Signals) -> None:
    server = Server(tmp_path / "service", config=CONFIG)
    command = Command(tmp_path, "--scorers", "made_up", *at(server, tmp_path))
    wait_for_pending(server.address, 3)
    command.process.send_signal(number)
    out, err = command.process.communicate(timeout=READY_S)
    server.stop(signal.SIGKILL)
    assert command.process.returncode == 3
    assert err.decode() == f"overread: stopped by {number.name}; {command.out} was not written\n"
    assert out == b""
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_a_stopped_command_takes_its_own_service_along(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'plugins = ["{PLUGIN}"]\nworkers = 1\n')
    command = Command(tmp_path, "--scorers", "made_up", "--config", config)
    command.wait_until_it_writes()
    children = psutil.Process(command.process.pid).children(recursive=True)
    assert children
    command.process.send_signal(signal.SIGINT)
    command.process.communicate(timeout=READY_S)
    assert command.process.returncode == 3
    (tmp_path / "never").touch()  # a worker notices between two batches that its service is gone
    assert not psutil.wait_procs(children, timeout=READY_S)[1]
    assert not list(tmp_path.glob("*out.jsonl*"))


def test_a_service_that_dies_for_good_is_a_failure_without_output(tmp_path: Path) -> None:
    server = Server(tmp_path / "service", config=CONFIG)
    config = tmp_path / "config.toml"
    config.write_text("deadline_s = 3.0\n")
    command = Command(tmp_path, "--scorers", "made_up", "--config", config, *at(server, tmp_path))
    server_address = server.address
    wait_for_pending(server_address, 3)
    server.stop(signal.SIGKILL)
    _, err = command.process.communicate(timeout=READY_S)
    assert command.process.returncode == 1
    outage, failure = err.decode().splitlines()
    assert outage == f"overread: unreachable at {server_address}; asking again for up to 3 s"
    assert failure.startswith("overread: unreachable: no scores within 3 s")
    assert not list(tmp_path.glob("*out.jsonl*"))
