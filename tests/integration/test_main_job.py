"""The main job on real components: Ray, vLLM, the reward service over HTTP, DeepSpeed, weight pushes."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rewards_server import Server

from orchestration.config import load_recipe
from prompts.phantoms import write_phantoms
from prompts.source import PromptSource
from prompts.store import read_prompts
from schemas.arrow import table_to_groups

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STEPS, GROUPS, SIZE = 8, 4, 3

RECIPE = """
name = "job"
model = "{model}"
runs_dir = "{runs}"
steps = 8
groups_per_step = 4
max_staleness = {staleness}
checkpoint_every = 100

[data]
path = "{data}"

[rollout]
group_size = 3
max_tokens = 24
max_model_len = 160
max_num_seqs = 16
kv_cache_mib = 64

[reward]
addresses = {addresses}
{token}

[learner]
learning_rate = 1e-3

[evaluation]
prompts_per_task = 3
"""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "phantoms"
    write_phantoms(folder, count=30, seed=3)
    return folder


@pytest.fixture
def write_recipe(tmp_path: Path, tiny_model: Path, phantoms: Path) -> Callable[..., Path]:
    def write(staleness: int, addresses: list[str], token_file: Path | None = None) -> Path:
        path = tmp_path / "recipe.toml"
        token = f'token_file = "{token_file}"' if token_file else ""
        values = {"model": tiny_model, "runs": tmp_path / "runs", "data": phantoms, "token": token}
        path.write_text(RECIPE.format(staleness=staleness, addresses=json.dumps(addresses), **values))
        return path

    return write


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in _lines(run / "events.jsonl") if event["kind"] == kind]


def _check_run_folder(run: Path, steps: int) -> None:
    wanted = {"config.toml", "metrics.jsonl", "events.jsonl", "ledger.sqlite", "rollouts", "checkpoints", "logs"}
    wanted |= {"summary.json", "report.html", "evaluations"}
    assert wanted <= {path.name for path in run.iterdir()}
    assert [path.name for path in sorted((run / "rollouts").glob("*.parquet"))] == [
        f"step-{step:06d}.parquet" for step in range(1, steps + 1)
    ]
    private = [run, *run.rglob("*.parquet"), *run.rglob("*.log"), run / "report.html", run / "reward-token"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in private if path.exists())


def _check_no_made_up_scores(run: Path) -> None:
    """Every completion that was trained on has each weighted score from the service, and the reward that they give."""
    weights = load_recipe(run / "config.toml", {}).reward.weights
    for path in (run / "rollouts").iterdir():
        for group in table_to_groups(pq.read_table(path)):
            for completion in group.completions:
                wanted = {name: weight for name, weight in weights[group.prompt.task].items() if weight}
                if wanted.keys() <= completion.scores.keys():
                    assert completion.reward == pytest.approx(
                        sum(weight * completion.scores[name].value for name, weight in wanted.items())
                    )
                else:
                    assert completion.reward is None
                    assert completion.advantage is None


def _check_private(run: Path, data: Path, *outputs: str) -> None:
    """No log, event, metric or terminal line holds a sentence of a question, reference or completion (promise 9)."""
    texts = {p.question for p in read_prompts(data)} | {p.reference.report or "" for p in read_prompts(data)}
    for path in (run / "rollouts").glob("*.parquet"):
        texts |= {c.text for group in table_to_groups(pq.read_table(path)) for c in group.completions}
    sentences = {part.strip() for text in texts for part in text.split(".") if len(part.strip()) >= 8}
    assert len(sentences) > 20
    places = [*(run / "logs").iterdir(), run / "metrics.jsonl", run / "events.jsonl"]
    for text in [*(path.read_text(errors="replace") for path in places), *outputs]:
        assert not [sentence for sentence in sentences if sentence in text]


@pytest.fixture
def ray_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray head node with a job server; its address."""
    ray = Path(sys.executable).with_name("ray")
    port, dashboard = "26379", "28265"
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
    command = [ray, "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard}", "--min-worker-port=0", "--max-worker-port=0"]
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    yield f"http://127.0.0.1:{dashboard}"
    subprocess.run([ray, "stop", "--force"], check=True, capture_output=True, timeout=60)


def test_a_submitted_ray_job_trains_on_policy(
    ray_head: str, write_recipe: Callable[..., Path], tmp_path: Path, phantoms: Path
) -> None:
    recipe = write_recipe(staleness=0, addresses=[])
    entry = [sys.executable, "-m", "orchestration.cli", "train", str(recipe)]
    command = [
        Path(sys.executable).with_name("ray"),
        "job",
        "submit",
        "--address",
        ray_head,
        "--working-dir",
        str(ROOT),
    ]
    done = subprocess.run([*command, "--", *entry], capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "job"
    _check_run_folder(run, STEPS)
    _check_no_made_up_scores(run)

    metrics = _lines(run / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    for line in metrics:
        assert line["policy_version"] == line["step"]
        assert line["staleness/max"] == 0
        assert line["logprob_gap/max"] <= 1e-3
        assert line["push/canary_gap"] <= 1e-3
    # max_staleness = 0: every token of step k was made by the weights that step k trains.
    for step in range(1, STEPS + 1):
        groups = table_to_groups(pq.read_table(run / "rollouts" / f"step-{step:06d}.parquet"))
        assert len(groups) == GROUPS
        versions = {span.version for group in groups for c in group.completions for span in c.versions}
        assert versions == {step - 1}
        assert all(len(group.completions) == SIZE for group in groups)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["driver_peak_mib"] < 1024
    assert {"before", "after", "difference"} == summary["eval"].keys()
    assert any(key.startswith("eval/phantom/") for key in metrics[-1])
    _check_private(run, phantoms, done.stdout, done.stderr)


def _train(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "orchestration.cli", "train", *arguments]
    with (cwd / "train.out").open("ab") as out:
        return subprocess.Popen(command, cwd=cwd, stdout=out, stderr=out)


def _wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float, out: Path) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, out.read_text()[-3000:]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def _check_exactly_once(run: Path, phantoms: Path) -> None:
    """The surviving history trains each place of the seeded order once, as a run that was never stopped would."""
    ledger = sqlite3.connect(run / "ledger.sqlite")
    trained = ledger.execute(
        "SELECT position, prompt_id FROM groups WHERE state = 'trained' ORDER BY position"
    ).fetchall()
    assert len(trained) == len({position for position, _ in trained}) == STEPS * GROUPS
    source = PromptSource(read_prompts(phantoms, "train", ("report", "grounding")), seed=0)
    order = [source.next()[0].prompt_id for _ in range(max(position for position, _ in trained) + 1)]
    assert all(prompt_id == order[position] for position, prompt_id in trained)
    # What was open when it stopped was issued again first, in the same order.
    first = ledger.execute(
        "SELECT position FROM groups WHERE incarnation = 0 AND state = 'abandoned' ORDER BY position"
    )
    again = ledger.execute("SELECT position FROM groups WHERE incarnation = 1 ORDER BY rowid").fetchall()
    left_open = first.fetchall()
    assert again[: len(left_open)] == left_open
    audit = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "audit", str(run), "--json"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    figures = json.loads(audit.stdout)
    assert (figures["trained"], figures["trained_twice"], figures["lost"]) == (STEPS * GROUPS, 0, 0)
    assert figures["in_flight"] == 0


def test_an_outage_is_survived_and_a_stopped_run_goes_on_with_the_same_prompts(
    write_recipe: Callable[..., Path], tmp_path: Path, phantoms: Path
) -> None:
    """The reward service is away for 5 s; SIGTERM; resume; kill -9; resume: nothing lost, nothing twice."""
    run, out = tmp_path / "runs" / "job", tmp_path / "train.out"
    metrics = run / "metrics.jsonl"

    def steps() -> int:
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    service = Server(tmp_path / "service")
    address = service.address
    try:
        recipe = write_recipe(1, [address], tmp_path / "service" / "token")
        process = _train(str(recipe), cwd=tmp_path)
        _wait_for(lambda: steps() >= 1, process, 400, out)
        service.stop(signal.SIGKILL)
        time.sleep(5)
        service = Server(tmp_path / "service", port=int(address.rsplit(":", 1)[1]))
        _wait_for(lambda: bool(_events(run, "reward_retried")), process, 60, out)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 3, out.read_text()[-3000:]
        stopped_at = steps()
        assert stopped_at < STEPS
        assert b"--resume" in out.read_bytes()

        killed = _train("--resume", str(run), cwd=tmp_path)
        _wait_for(lambda: steps() > stopped_at, killed, 400, out)
        killed.kill()  # what came after the checkpoint is lost, and done again
        killed.wait(60)

        resumed = _train("--resume", str(run), cwd=tmp_path)
        assert resumed.wait(500) == 0, out.read_text()[-3000:]
    finally:
        service.stop()
    _check_run_folder(run, STEPS)
    _check_no_made_up_scores(run)
    surviving = [line for line in _lines(metrics) if not line.get("abandoned")]
    assert [line["step"] for line in surviving] == list(range(1, STEPS + 1))
    assert all(line["staleness/max"] <= 1 for line in surviving)

    _check_exactly_once(run, phantoms)
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    _check_private(run, phantoms, out.read_text())
