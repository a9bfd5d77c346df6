"""The reward client against real services: groups, refusals, outages, deadlines."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from made_up_scorer import LOAD_VARIABLE, SECRET
from rewards_server import READY_S, TOKEN, Server, free_port, group, made_up, running

from rewards.app import create_app
from rewards.client import Retry, RewardClient
from schemas.errors import DeadlineError, RewardError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("rewards"))
    yield started
    if started.process.poll() is None:
        started.stop()


async def test_a_group_comes_back_with_scores_and_nothing_else_changed(server: Server) -> None:
    client = RewardClient([server.address], TOKEN, 30.0)
    await client.wait_ready(READY_S)
    asked = group(["At [0.1, 0.2, 0.3, 0.4].", "No.", "[0.1, 0.2, 0.3, 0.4] [0.5, 0.5, 0.6, 0.6]"])
    scored = await client.score_group(asked, ["soft_f1", "format"], {"soft_f1": {"max_boxes": 10}})
    await client.close()
    assert [c.scores["soft_f1"].value for c in scored.completions] == pytest.approx([1.0, 0.0, 2 / 3])
    assert all(c.errors == {} and c.reward is None for c in scored.completions)
    assert scored.score_s > 0.0
    bare = tuple(c.model_copy(update={"scores": {}}) for c in scored.completions)
    assert scored.model_copy(update={"completions": bare, "score_s": 0.0}) == asked


async def test_a_question_that_wants_thinking_is_scored_after_the_trace(server: Server) -> None:
    client = RewardClient([server.address], TOKEN, 30.0)
    asked = group(["[0, 0, 1, 1]? </think> [0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2, 0.3, 0.4]"], "Where is it? /think")
    scored = await client.score_group(asked, ["soft_f1", "format"], {})
    await client.close()
    assert [c.scores["soft_f1"].value for c in scored.completions] == pytest.approx([1.0, 0.0])
    assert [c.scores["format"].value for c in scored.completions] == [1.0, 0.0]


async def test_a_refused_request_is_not_repeated(server: Server) -> None:
    retries: list[Retry] = []
    for token, scorers, code in ((TOKEN, ["soft_f2"], "bad_request"), ("wrong", ["soft_f1"], "unauthorized")):
        client = RewardClient([server.address], token, 30.0, on_retry=retries.append)
        with pytest.raises(RewardError) as error:
            await client.score_group(group([SECRET]), scorers, {})
        await client.close()
        assert error.value.code == code
        assert SECRET not in str(error.value)
    assert retries == []


async def test_a_wrong_token_shows_at_the_start(server: Server) -> None:
    client = RewardClient([server.address], "wrong", 30.0)
    with pytest.raises(RewardError, match="unauthorized"):
        await client.wait_ready(READY_S)
    await client.close()


async def test_an_outage_of_three_seconds_is_survived_and_no_score_is_made_up(tmp_path: Path) -> None:
    port = free_port()
    first = await asyncio.to_thread(Server, tmp_path / "service", port)
    address = await asyncio.to_thread(lambda: first.address)
    retries: list[Retry] = []
    client = RewardClient([address], TOKEN, 120.0, on_retry=retries.append)
    await client.wait_ready(READY_S)
    texts = ["At [0.1, 0.2, 0.3, 0.4].", "Nowhere."]
    before = await client.score_group(group(texts), ["soft_f1"], {})
    await asyncio.to_thread(first.stop, signal.SIGKILL)

    waiting = [asyncio.create_task(client.score_group(group(texts), ["soft_f1"], {})) for _ in range(4)]
    await asyncio.sleep(3.0)
    assert not any(task.done() for task in waiting)
    second = await asyncio.to_thread(Server, tmp_path / "service", port)
    after = await asyncio.gather(*waiting)
    await client.close()
    await asyncio.to_thread(second.stop)

    for scored in after:
        assert [c.scores for c in scored.completions] == [c.scores for c in before.completions]
        assert scored.score_s >= 3.0
    assert {"unreachable"} <= {retry.cause for retry in retries} <= {"unreachable", "not_ready"}


async def test_a_second_address_takes_over_and_the_dead_one_is_left_out() -> None:
    retries: list[Retry] = []
    with running(create_app(made_up())) as address:
        await (alive := RewardClient([address], None, 30.0)).wait_ready(READY_S, ["made_up"])
        client = RewardClient([f"http://127.0.0.1:{free_port()}", address], None, 30.0, on_retry=retries.append)
        for _ in range(4):
            scored = await client.score_group(group(["ab"]), ["made_up"], {})
            assert scored.completions[0].scores["made_up"].value == 0.5
        await alive.close()
        await client.close()
    assert [retry.cause for retry in retries] == ["unreachable"]


async def test_waiting_for_a_scorer_tells_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOAD_VARIABLE, "fail")
    with running(create_app(made_up(scorers=("made_up", "format")))) as address:
        client = RewardClient([address], None, 30.0)
        with pytest.raises(DeadlineError, match="HTTP 503"):
            await client.wait_ready(5.0, ["made_up"])
        await client.close()
    with running(create_app(made_up(scorers=("radgraph_f1", "format")))) as address:
        client = RewardClient([address], None, 30.0)
        with pytest.raises(RewardError, match=r"radgraph_f1.*hf download") as error:
            await client.wait_ready(READY_S, ["radgraph_f1"])
        assert error.value.code == "not_ready"
        with pytest.raises(RewardError) as error:
            await client.wait_ready(READY_S, ["no_such"])
        assert error.value.code == "unknown_scorer"
        await client.close()


async def test_past_the_deadline_there_is_an_error_and_no_score() -> None:
    client = RewardClient([f"http://127.0.0.1:{free_port()}"], None, 1.0)
    with pytest.raises(RewardError, match=r"within 1 s.*last: unreachable") as error:
        await client.score_group(group([SECRET]), ["soft_f1"], {})
    assert error.value.code == "unreachable"
    assert SECRET not in str(error.value)
    with pytest.raises(DeadlineError, match="waited"):
        await client.wait_ready(0.5)
    await client.close()


async def test_an_item_that_hangs_costs_itself_and_not_the_group(tmp_path: Path) -> None:
    """The service answers before the client hangs up."""
    with running(create_app(made_up(batch_items=1))) as address:
        client = RewardClient([address], None, 3.0)
        await client.wait_ready(READY_S)
        scored = await client.score_group(group(["ab", f"wait {tmp_path / 'never'}"]), ["made_up"], {})
        await client.close()
    assert scored.completions[0].scores["made_up"].value == 0.5
    assert scored.completions[1].errors["made_up"].code == "deadline"


async def test_a_service_that_scores_nothing_in_time_is_asked_again_and_then_a_deadline(tmp_path: Path) -> None:
    retries: list[Retry] = []
    with running(create_app(made_up())) as address:
        client = RewardClient([address], None, 2.0, on_retry=retries.append)
        await client.wait_ready(READY_S)
        with pytest.raises(RewardError) as error:
            await client.score_group(group([f"wait {tmp_path / 'never'}"]), ["made_up"], {})
        await client.close()
    assert error.value.code == "deadline"
    assert {retry.cause for retry in retries} == {"slow"}


@pytest.mark.parametrize(
    "reply",
    [
        {"results": [], "versions": {}},
        {"results": [{"id": "1", "scores": {"a": {"value": 1}}, "errors": {}}], "versions": {}},
        {"results": [{"id": "0", "scores": {}, "errors": {}}], "versions": {}},
        {"results": [{"id": "0", "scores": {"a": {"value": None}}, "errors": {}}], "versions": {}},
        [SECRET],
    ],
)
async def test_a_reply_that_does_not_fit_the_request_is_no_score(reply: object) -> None:
    app = FastAPI()

    @app.post("/v1/score")
    async def answer() -> object:
        return reply

    with running(app) as address:
        client = RewardClient([address], None, 10.0)
        with pytest.raises(RewardError) as error:
            await client.score_group(group(["x"]), ["a"], {})
        await client.close()
    assert error.value.code == "bad_reply"
    assert SECRET not in str(error.value)


async def test_a_server_error_is_repeated() -> None:
    app = FastAPI()
    calls: list[int] = []

    @app.post("/v1/score")
    async def answer() -> object:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("a bug of somebody's service")
        return {"results": [{"id": "0", "scores": {"a": {"value": 1.0, "details": {}}}, "errors": {}}], "versions": {}}

    retries: list[Retry] = []
    with running(app) as address:
        client = RewardClient([address], None, 30.0, on_retry=retries.append)
        scored = await client.score_group(group(["x"]), ["a"], {})
        await client.close()
    assert scored.completions[0].scores["a"].value == 1.0
    assert [retry.cause for retry in retries] == ["server_error", "server_error"]
