"""Scorer processes that die or hang, clients that go away, deadlines and limits: nothing is lost or made up."""

import asyncio
import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from made_up_scorer import LOAD_VARIABLE, SECRET
from rewards_server import (
    READY_S,
    TOKEN,
    Server,
    item,
    made_up,
    running,
    scored,
    wait_for_metric,
    wait_for_pending,
    wait_for_ready,
    wait_until,
)

from rewards.app import create_app
from rewards.service import RewardService
from rewards.settings import RewardServiceSettings
from rewards.tokens import TOKENS_VARIABLE, find_tokens
from rewards.wire import ScoreRequest
from schemas.group import RolloutGroup

pytestmark = pytest.mark.integration


def test_a_process_that_dies_in_mid_batch_costs_only_the_item_that_kills_it(tmp_path: Path) -> None:
    """The others are scored by the process that takes its place, and so is the next request."""
    with running(create_app(made_up())) as address:
        completions = asyncio.run(scored(address, ["ab", "die", "abcd"])).completions
        assert [c.errors["made_up"].code for c in completions if c.errors] == ["worker_died"]
        assert [c.scores["made_up"].value for c in completions if c.scores] == [0.5, 0.25]
        assert asyncio.run(scored(address, ["ab"])).completions[0].scores["made_up"].value == 0.5
        metrics = httpx.get(f"{address}/metrics", trust_env=False).text
    assert 'worker_deaths_total{tier="embedded"} 2.0' in metrics


def test_a_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    with running(create_app(made_up())) as address:
        completions = asyncio.run(scored(address, ["ab", f"die {tmp_path / 'died'}"])).completions
    assert [c.errors for c in completions] == [{}, {}]


def test_a_process_killed_from_outside_is_replaced_and_the_request_is_answered(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"

    async def kill_while_scoring(address: str, service: RewardService) -> RolloutGroup:
        asked = asyncio.create_task(scored(address, [f"wait {go_on}", "ab"]))
        await asyncio.to_thread(wait_for_pending, address, 2)
        (pid,) = service.worker_pids
        os.kill(pid, signal.SIGKILL)
        go_on.touch()
        return await asked

    app = create_app(made_up())
    with running(app) as address:
        completions = asyncio.run(kill_while_scoring(address, app.state.service)).completions
    assert [c.errors for c in completions] == [{}, {}]
    assert completions[1].scores["made_up"].value == 0.5


@pytest.mark.parametrize("trouble", ["dies while loading", "can't load its scorers", "no process to be had"])
def test_a_worker_that_can_not_be_replaced_at_once_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """What waits for it is scored once it is back; nothing is lost and nothing stays counted."""
    app = create_app(made_up())
    with running(app) as address:
        wait_for_ready(address)
        if trouble == "no process to be had":
            monkeypatch.setattr(subprocess, "Popen", _no_process)
        else:
            monkeypatch.setenv(LOAD_VARIABLE, "die" if trouble == "dies while loading" else "fail")
        os.kill(app.state.service.worker_pids[0], signal.SIGKILL)
        wait_until(lambda: _state(address) == "failed")
        monkeypatch.undo()
        assert asyncio.run(scored(address, ["ab"])).completions[0].scores["made_up"].value == 0.5
        wait_for_pending(address, 0)


def _no_process(*_: object, **__: object) -> None:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def _state(address: str) -> str:
    return str(httpx.get(f"{address}/readyz", trust_env=False).json()["scorers"]["made_up"]["state"])


def test_one_worker_in_trouble_does_not_stop_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(made_up(workers=2))
    with running(app) as address:
        wait_for_ready(address)
        wait_until(lambda: len(app.state.service.worker_pids) == 2)
        monkeypatch.setenv(LOAD_VARIABLE, "die")
        os.kill(app.state.service.worker_pids[0], signal.SIGKILL)
        wait_until(lambda: len(app.state.service.worker_pids) == 1)
        for text in ("ab", "abc", "abcd", "abcde"):
            completion = asyncio.run(scored(address, [text])).completions[0]
            assert completion.scores["made_up"].value == pytest.approx(1 / len(text))


def test_at_the_deadline_what_is_scored_is_kept(tmp_path: Path) -> None:
    texts = ("ab", f"wait {tmp_path / 'never'}", "abcd")
    body = {"items": [item(completion=text) for text in texts], "scorers": ["made_up"], "deadline_s": 1.5}
    with running(create_app(made_up(batch_items=1, batch_deadline_s=5.0))) as address:
        wait_for_ready(address)
        first, late, last = httpx.post(f"{address}/v1/score", json=body, timeout=30, trust_env=False).json()["results"]
    assert first["scores"]["made_up"]["value"] == 0.5
    assert [result["errors"]["made_up"]["code"] for result in (late, last)] == ["deadline", "deadline"]


def test_a_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running(create_app(made_up(batch_deadline_s=0.5))) as address:
        completions = asyncio.run(scored(address, [f"wait {tmp_path / 'never'}", "ab"])).completions
    assert completions[0].errors["made_up"].code == "worker_died"
    assert completions[1].scores["made_up"].value == 0.5


def test_a_client_that_goes_away_takes_its_items_out_of_the_queue(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"

    async def leave(address: str) -> None:
        body = {"items": [item(completion="ab")] * 5, "scorers": ["made_up"]}
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{address}/v1/score", json=body, timeout=httpx.Timeout(30, read=0.3))

    async def both(address: str) -> RolloutGroup:
        first = asyncio.create_task(scored(address, [f"wait {go_on}"]))
        await asyncio.to_thread(wait_for_pending, address, 1)
        await leave(address)
        await asyncio.to_thread(wait_for_metric, address, 'overread_rewards_replies_total{status="499"} 1.0')
        go_on.touch()
        return await first

    with running(create_app(made_up(batch_items=1))) as address:
        (completion,) = asyncio.run(both(address)).completions
        wait_for_pending(address, 0)
        metrics = httpx.get(f"{address}/metrics", trust_env=False).text
    assert completion.errors == {}
    assert 'scores_total{scorer="made_up"} 1.0' in metrics


@pytest.mark.parametrize(("asked_s", "allowed_s"), [(0.3, 60.0), (60.0, 0.3), (None, 0.3)])
def test_what_is_not_scored_by_the_deadline_is_an_error(
    tmp_path: Path, asked_s: float | None, allowed_s: float
) -> None:
    go_on = tmp_path / "go-on"
    body = {"items": [item(completion=f"wait {go_on}")], "scorers": ["made_up"], "deadline_s": asked_s}
    with running(create_app(made_up(request_deadline_s=allowed_s))) as address:
        wait_for_ready(address)
        result = httpx.post(f"{address}/v1/score", json=body, timeout=30, trust_env=False).json()["results"][0]
        go_on.touch()
    assert result["scores"] == {}
    assert result["errors"]["made_up"]["code"] == "deadline"


def test_items_of_concurrent_requests_are_scored_in_one_batch(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"

    async def many(address: str) -> list[RolloutGroup]:
        first = asyncio.create_task(scored(address, [f"wait {go_on}"]))
        await asyncio.to_thread(wait_for_pending, address, 1)
        others = [asyncio.create_task(scored(address, ["ab"] * 2)) for _ in range(5)]
        await asyncio.to_thread(wait_for_pending, address, 11)
        go_on.touch()
        return await asyncio.gather(first, *others)

    with running(create_app(made_up())) as address:
        asyncio.run(many(address))
        metrics = httpx.get(f"{address}/metrics", trust_env=False).text
    assert 'batch_items_count{tier="embedded"} 2.0' in metrics
    assert 'batch_items_sum{tier="embedded"} 11.0' in metrics


async def test_items_go_where_their_reference_is_known() -> None:
    """A group's reference is computed in one process only, whatever the other requests are."""
    ready = asyncio.Event()
    settings = RewardServiceSettings(scorers=("chexpert_f1",), workers=2, batch_wait_s=0.0)
    service = RewardService(settings, on_ready=ready.set)
    service.start()
    try:
        await asyncio.wait_for(ready.wait(), READY_S)
        for number in range(20):
            reference = {"report": f"There is cardiomegaly in film {number}."}
            items = [item(task="report", reference=reference, completion=text) for text in ("No effusion.", "Edema.")]
            for _ in range(2):
                await service.score(ScoreRequest.model_validate({"items": items, "scorers": ["chexpert_f1"]}))
        text = service.metrics.exposition().decode()
    finally:
        await service.close()
    assert 'lookups_total{result="miss"} 20.0' in text
    assert 'lookups_total{result="hit"} 60.0' in text


def test_too_many_reference_boxes_are_413_and_named() -> None:
    with running(create_app(made_up(max_reference_boxes=2))) as address:
        wait_for_ready(address)
        boxes = [{"box": [0.1, 0.1, 0.2, 0.2]}] * 3
        body = {"items": [item(), item(reference={"boxes": boxes})]}
        response = httpx.post(f"{address}/v1/score", json=body, trust_env=False)
    assert response.status_code == 413
    assert response.json()["fields"] == [{"field": "items[1].reference.boxes", "rule": "at most 2 boxes; given: 3"}]


def test_json_that_is_nested_too_deep_is_422_and_says_so() -> None:
    with running(create_app(made_up())) as address:
        wait_for_ready(address)
        body = b'{"items": ' + b"[" * 1_000 + b"]" * 1_000 + b"}"
        response = httpx.post(f"{address}/v1/score", content=body, trust_env=False)
    assert response.status_code == 422
    assert "200 deep" in response.json()["fields"][0]["rule"]


def test_every_token_of_the_file_and_of_the_environment_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# trainers\n{TOKEN}\n\nanother-token\n")
    monkeypatch.setenv(TOKENS_VARIABLE, "from-environment, second")
    assert find_tokens(None) == ("from-environment", "second")
    with running(create_app(made_up(), find_tokens(file))) as address:
        statuses = [
            httpx.get(
                f"{address}/v1/scorers", headers={"Authorization": f"Bearer {token}"}, trust_env=False
            ).status_code
            for token in (TOKEN, "another-token", "from-environment", "# trainers", "x")
        ]
    assert statuses == [200, 200, 401, 401, 401]


def test_no_text_of_a_report_reaches_the_log_of_a_service_whose_process_dies(tmp_path: Path) -> None:
    plugin = Path(__file__).with_name("made_up_scorer.py")
    server = Server(tmp_path, config=f'plugins = ["{plugin}"]\nscorers = ["made_up"]\nworkers = 1\n')
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"items": [item(completion="die", question=SECRET, reference={"report": SECRET})], "scorers": ["made_up"]}
    reply = httpx.post(f"{server.address}/v1/score", json=body, headers=headers, timeout=30, trust_env=False)
    assert reply.json()["results"][0]["errors"]["made_up"]["code"] == "worker_died"
    assert server.stop() == 0
    assert "crashed" in server.log.read_text()
    assert SECRET not in server.log.read_text() + reply.text


def test_a_killed_service_leaves_no_scorer_process_behind(tmp_path: Path) -> None:
    server = Server(tmp_path, config='scorers = ["chexpert_f1"]\nworkers = 2\n')
    assert server.address
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 2
    server.process.kill()
    server.process.wait(timeout=30)
    deadline = time.monotonic() + READY_S
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
