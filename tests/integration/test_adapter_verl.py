"""verl's own reward loop calls the adapter, in an environment of its own: its numbers are the service's."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_scorer import PLUGIN, SECRET
from rewards_server import REPOSITORY, TOKEN, Server
from test_adapter_trl import PYTORCH_CPU_INDEX, pinned

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

VERL = "verl==0.9.1"
SCRIPT = Path(__file__).with_name("verl_rewards.py")
CONFIG = f'plugins = ["{PLUGIN}"]\nscorers = ["made_up", "rouge_l", "bleu", "soft_f1"]\nworkers = 1\n'
BOXES = {"boxes": [{"box": [0.1, 0.2, 0.3, 0.4], "label": "nodule"}]}
GROUNDING = {"task": "grounding", "box_format": "radvlm"}


@pytest.fixture(scope="module")
def verl_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds verl and this project; no package that needs a GPU."""
    venv = tmp_path_factory.mktemp("verl") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    packages = [VERL, *pinned("torch"), str(REPOSITORY)]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    if subprocess.run(command, check=False).returncode != 0:  # the configured indexes lack torch's CPU build
        subprocess.run([*command, "--extra-index-url", PYTORCH_CPU_INDEX], check=True)
    return python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("rewards"), config=CONFIG)
    yield started
    started.stop(signal.SIGKILL)


@pytest.fixture
def verl(verl_python: Path, server: Server, tmp_path: Path, tiny_model: Path) -> Any:
    """verl's answer to rows, with a config of its own and the options as on its command line."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)

    def run(rows: list[dict[str, Any]], **options: str) -> Any:
        given = {"addresses": f"[{server.address}]", "token_file": str(token_file), **options}
        at = "reward.custom_reward_function"
        overrides = [f"{at}.path=pkg://rewards.adapters.verl"]
        overrides += [f"+{at}.reward_kwargs.{name}={value}" for name, value in given.items()]
        job = {"overrides": overrides, "model": str(tiny_model), "rows": rows}
        (tmp_path / "job.json").write_text(json.dumps(job))
        command = [str(verl_python), str(SCRIPT), str(tmp_path / "job.json")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        assert SECRET not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def row(completion: str, truth: Any, **extra: str) -> dict[str, Any]:
    return {"completion": completion, "truth": truth, "extra_info": {"index": 1, **extra}}


def test_verls_rewards_are_the_services(verl: Any) -> None:
    made = verl([row("testing one two", "testing two"), row("a b", "a b")], weights="{rouge_l: 2.0, bleu: 0.0}")
    assert [result["reward_score"] for result in made] == pytest.approx([1.6, 2.0])
    assert [result["reward_extra_info"]["rouge_l"] for result in made] == pytest.approx([0.8, 1.0])
    assert made[1]["reward_extra_info"]["bleu"] == pytest.approx(1.0)


def test_verls_batch_may_hold_several_tasks(verl: Any) -> None:
    rows = [row("At [0.1, 0.2, 0.3, 0.4].", BOXES, **GROUNDING), row("testing one two", "testing two")]
    made = verl(rows, weights="{report: {rouge_l: 1.0}, grounding: {soft_f1: 1.0}}")
    assert [result["reward_score"] for result in made] == pytest.approx([1.0, 0.8])
    assert made[0]["reward_extra_info"].keys() == made[1]["reward_extra_info"].keys()


def test_a_missing_score_stops_verl(verl: Any) -> None:
    rows = [row("xx", BOXES, **GROUNDING), row(" ", BOXES, **GROUNDING)]
    made = verl(rows, scorers="[made_up]", task="grounding")
    assert made == {
        "type": "RewardError",
        "message": "missing_score: no reward for a completion of openi: made_up: scorer_failed",
    }
