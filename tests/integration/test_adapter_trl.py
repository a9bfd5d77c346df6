"""TRL trains with the reward service: in an environment of its own, the rewards in its log are the service's."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rewards_server import REPOSITORY, TOKEN, Server
from trl_training import GROUP, STEPS

from rewards.client import RewardClient
from rewards.reward import combine
from rewards.wire import Item, ItemReference, ScoreRequest
from schemas.prompt import Prompt

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

TRL = "trl==1.16.0"
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WEIGHTS = {"rouge_l": 1.0, "gleu": 0.5, "repetition": -0.25}
VISION = ("<|vision_", "<|image_pad", "<|video_pad")
SCRIPT = Path(__file__).with_name("trl_training.py")


def pinned(*packages: str) -> list[str]:
    """The versions that this project is tested with: TRL shares its torch and transformers."""
    lines = (REPOSITORY / "constraints" / "cpu.txt").read_text().splitlines()
    return [line for line in lines if line.partition("==")[0] in packages]


@pytest.fixture(scope="module")
def trl_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds TRL and this project, as its user would install them."""
    venv = tmp_path_factory.mktemp("trl") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    packages = [TRL, *pinned("torch", "torchvision", "transformers"), str(REPOSITORY)]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    if subprocess.run(command, check=False).returncode != 0:  # the configured indexes lack torch's CPU build
        subprocess.run([*command, "--extra-index-url", PYTORCH_CPU_INDEX], check=True)
    return python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("rewards"))
    yield started
    started.stop(signal.SIGKILL)


def train(python: Path, folder: Path, server: Server, model: Path, prompts: list[Prompt]) -> list[dict[str, object]]:
    """Two steps of GRPO on films and their reports, the last one without a report. Returns the training's rows."""
    added = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
    vision_token_ids = [token["id"] for token in added if token["content"].startswith(VISION)]
    reports = {p.images[0].path: p.reference.report for p in prompts if p.task == "report"}
    films = sorted(reports)
    rows: list[dict[str, object]] = [
        {"question": f"Report film {number}.", "film": film, "report": reports[film] if number < 2 else None}
        for number, film in enumerate(films[:3])
    ]
    job = {
        "rows": rows, "folder": str(folder), "model": str(model), "address": server.address, "token": TOKEN,
        "weights": WEIGHTS,
        "vision_token_ids": vision_token_ids,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    run = subprocess.run(
        [str(python), str(SCRIPT), str(folder / "job.json")], check=False, capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert "returned None" not in run.stdout + run.stderr  # the warning that would quote a patient's texts
    return rows


async def from_service(server: Server, texts: list[str], references: list[str | None]) -> list[float | None]:
    """The rewards of completions, asked for without the adapter."""
    items = tuple(
        Item(id=str(n), task="report", completion=text, reference=ItemReference(report=reference, labels=()))
        for n, (text, reference) in enumerate(zip(texts, references, strict=True))
    )
    client = RewardClient([server.address], TOKEN, 60.0)
    response = await client.score(ScoreRequest(items=items, scorers=tuple(WEIGHTS)))
    await client.close()
    return [combine(result.scores, result.errors, WEIGHTS) for result in response.results]


def test_the_rewards_in_trls_log_are_the_services(
    trl_python: Path, server: Server, tmp_path: Path, tiny_model: Path, phantom_prompts: list[Prompt]
) -> None:
    started = time.monotonic()
    rows = train(trl_python, tmp_path, server, tiny_model, phantom_prompts)
    print(f"{STEPS} steps, imports included, in {time.monotonic() - started:.0f} s")  # noqa: T201 - for pytest -s
    reports = {row["question"]: row["report"] for row in rows}
    log = [line for line in json.loads((tmp_path / "log.json").read_text()) if "reward" in line]
    assert len(log) == STEPS
    rewards: set[float] = set()
    for step, line in enumerate(log, start=1):
        table = pq.read_table(tmp_path / "completions" / f"completions_{step:05d}.parquet").to_pylist()
        assert len(table) == GROUP * len(rows)
        questions = [_text(row["prompt"][-1]["content"]) for row in table]
        texts = [_text(row["completion"][-1]["content"]) for row in table]
        expected = asyncio.run(from_service(server, texts, [reports[question] for question in questions]))
        assert [row["overread"] for row in table] == pytest.approx(expected, abs=1e-6)  # NaN is written as null
        known = [value for value in expected if value is not None]
        assert len(known) == GROUP * 2  # the film without a report has no reward, and no stand-in
        assert line["rewards/overread/mean"] == pytest.approx(sum(known) / len(known), abs=1e-6)
        assert line["overread/failed"] == pytest.approx(1 / 3)
        assert all(row["advantage"] == 0.0 for row, value in zip(table, expected, strict=True) if value is None)
        rewards |= set(known)
        print(f"step {step}: reward {line['reward']:.6f}, service {sum(known) / len(known):.6f}")  # noqa: T201
    assert len(rewards) > 2  # not one number for everything
    assert max(line["grad_norm"] for line in log) > 0.0


def _text(content: object) -> str:
    """A message's text: TRL records a string, or parts."""
    if isinstance(content, str):
        return content
    assert isinstance(content, list)
    return "".join(part["text"] or "" for part in content if part["type"] == "text")
