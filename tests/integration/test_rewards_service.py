"""The reward service as a real process on loopback, and its client through outages."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI

from rewards.app import create_app
from rewards.client import Retry, RewardClient
from rewards.scorer import NoParams, ScoreItem, Scorer
from rewards.settings import RewardServiceSettings
from schemas.errors import DeadlineError, RewardError
from schemas.group import Completion, RolloutGroup, Sampling, Score, ScoreError, VersionSpan
from schemas.prompt import Box, Prompt, Reference

pytestmark = pytest.mark.integration

TOKEN = "a-token-of-the-test"
SECRET = "left pneumothorax of Mrs Example"
REPOSITORY = Path(__file__).parents[2]
READY_S = 60.0

BOX = Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4, label="nodule")


def item(**changes: object) -> dict[str, Any]:
    reference = {"boxes": [{"box": list(BOX.corners), "label": "nodule"}], "report": "No effusion."}
    base = {"id": "a", "task": "grounding", "completion": "At [0.1, 0.2, 0.3, 0.4].", "box_format": "radvlm"}
    return {**base, "reference": reference, **changes}


def group(texts: Sequence[str], question: str = "Where is the nodule?") -> RolloutGroup:
    prompt = Prompt(
        prompt_id="p1",
        task="grounding",
        question=question,
        box_format="radvlm",
        reference=Reference(boxes=(BOX,)),
        dataset="test",
        patient_id="1",
        study_id="1",
        split="train",
    )
    completions = tuple(
        Completion(
            token_ids=(1, 2),
            rollout_logprobs=(-0.5, -0.25),
            versions=(VersionSpan(version=3, start=0, end=2),),
            finish_reason="stop",
            text=text,
        )
        for text in texts
    )
    return RolloutGroup(
        group_id="g1",
        prompt=prompt,
        epoch=0,
        incarnation=0,
        sampling=Sampling(max_tokens=8),
        completions=completions,
        fingerprint="f",
        worker="w0",
        generate_s=1.0,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A service process; its log is kept, to prove what is not in it."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        folder.mkdir(exist_ok=True)
        token_file = folder / "token"
        token_file.write_text(TOKEN)
        self.log = folder / "log"
        self._address_file = folder / "address"
        self._address_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "rewards.serve", "--port", str(port), "--token-file", str(token_file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--address-file", str(self._address_file)], cwd=REPOSITORY, stdout=log, stderr=log
            )

    @property
    def address(self) -> str:
        deadline = time.monotonic() + READY_S
        while not self._address_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self._address_file.read_text()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("rewards"))
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.address, headers=headers, timeout=30, trust_env=False) as client:
        yield client


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """An app on a real socket, for scorers that a process can't be given."""
    listener = socket.create_server(("127.0.0.1", 0))
    running_server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=running_server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running_server.should_exit = True
        thread.join(timeout=30)
        listener.close()


def scorer(score: Any, load: Any = lambda: None) -> dict[str, Scorer[Any]]:
    made = Scorer(
        name="made_up",
        version="7",
        tasks=frozenset({"grounding"}),
        range=(0.0, 1.0),
        direction="higher",
        needs=(),
        params=NoParams,
        score=score,
        load=load,
        summary="",
    )
    return {"made_up": made}


def wait_for_pending(address: str, items: int) -> None:
    """Until the service says that it is scoring that many items."""
    deadline = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as probe:
        while f"pending_items {items}.0" not in probe.get(f"{address}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# the service


def test_the_documented_request_is_answered_as_documented(http: httpx.Client) -> None:
    body = {
        "items": [item(), item(id="b", completion="Nowhere.")],
        "scorers": ["soft_f1"],
        "params": {"soft_f1": {"empty_match_value": 1.0}},
    }
    response = http.post("/v1/score", json=body)
    assert response.status_code == 200
    reply = response.json()
    assert [result["id"] for result in reply["results"]] == ["a", "b"]
    assert [result["scores"]["soft_f1"]["value"] for result in reply["results"]] == pytest.approx([1.0, 0.0])
    assert [result["errors"] for result in reply["results"]] == [{}, {}]
    assert reply["versions"] == {"soft_f1": "1"}


def test_without_names_a_task_gets_its_own_scorers(http: httpx.Client) -> None:
    reply = http.post("/v1/score", json={"items": [item(), item(task="report", completion="No effusion.")]}).json()
    assert set(reply["results"][0]["scores"]) == {"soft_f1", "format"}
    assert set(reply["results"][1]["scores"]) == {"rouge_l", "chexpert_f1", "prior_references", "format"}


def test_what_can_not_be_scored_is_an_error_and_no_number(http: httpx.Client) -> None:
    body = {"items": [item(reference={}), item(task="report")], "scorers": ["soft_f1"]}
    results = http.post("/v1/score", json=body).json()["results"]
    assert [result["scores"] for result in results] == [{}, {}]
    assert [result["errors"]["soft_f1"]["code"] for result in results] == ["missing_input", "wrong_task"]


def test_parameters_reach_the_scorer(http: httpx.Client) -> None:
    body = {
        "items": [item(completion="None.", reference={"boxes": []})],
        "scorers": ["soft_f1"],
        "params": {"soft_f1": {"empty_match_value": 0.25}},
    }
    assert http.post("/v1/score", json=body).json()["results"][0]["scores"]["soft_f1"]["value"] == 0.25


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", f"Basic {TOKEN}", "Bearer \u00e9"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/score"), ("GET", "/v1/scorers"), ("GET", "/metrics")])
def test_without_the_token_nothing_is_told(server: Server, header: str | None, method: str, path: str) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = httpx.request(method, server.address + path, headers=headers, content=b"{}", trust_env=False)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in response.text


def test_a_body_over_the_limit_is_413_declared_or_streamed(http: httpx.Client) -> None:
    chunk = b" " * 2**20
    assert http.post("/v1/score", content=chunk * 17).status_code == 413
    assert http.post("/v1/score", content=(chunk for _ in range(17))).status_code == 413


def test_too_many_items_and_too_long_a_text_are_413_and_named(http: httpx.Client) -> None:
    response = http.post("/v1/score", json={"items": [item()] * 1025})
    assert response.status_code == 413
    assert response.json()["fields"] == [{"field": "items", "rule": "at most 1024 items; given: 1025"}]
    response = http.post("/v1/score", json={"items": [item(), item(completion=SECRET * 5_000)]})
    assert response.status_code == 413
    assert response.json()["fields"][0]["field"] == "items[1].completion"
    assert SECRET not in response.text


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"completion": [SECRET]}, "items[1].completion"),
        ({"task": SECRET}, "items[1].task"),
        ({"reference": {"boxes": [{"box": [0.1, 0.2, SECRET, 0.4]}]}}, "items[1].reference.boxes[0].box[2]"),
        ({SECRET: 1}, "items[1].<key of 32 characters>"),
    ],
)
def test_a_wrong_request_names_item_and_field_and_repeats_no_text(
    http: httpx.Client, server: Server, changes: dict[str, object], field: str
) -> None:
    response = http.post("/v1/score", json={"items": [item(), item(**changes)]})
    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["fields"]] == [field]
    assert SECRET not in response.text
    assert SECRET not in server.log.read_text()


def test_an_unknown_scorer_and_an_unknown_parameter_are_named(http: httpx.Client) -> None:
    response = http.post("/v1/score", json={"items": [item()], "scorers": ["format", "soft_f2"]})
    assert response.status_code == 422
    assert response.json()["fields"][0]["field"] == "scorers[1]"
    assert "soft_f1" in response.json()["fields"][0]["rule"]
    response = http.post("/v1/score", json={"items": [item()], "params": {"soft_f1": {"empty": 1.0}}})
    assert response.json()["fields"][0]["field"] == "params.soft_f1.empty"


@pytest.mark.parametrize("body", [b"", b"not json", b"[" * 100_000, b'{"items": [NaN]}', b"\xff", b'{"items": []}'])
def test_a_body_that_is_no_request_is_422(http: httpx.Client, body: bytes) -> None:
    assert http.post("/v1/score", content=body).status_code == 422


def test_probes_and_documents_are_open(server: Server) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert httpx.get(server.address + path, trust_env=False).status_code == 200
    assert httpx.get(server.address + "/nothing", trust_env=False).json()["code"] == "http_404"


def test_scorers_are_listed_with_what_a_recipe_must_know(http: httpx.Client) -> None:
    listed = {entry["name"]: entry for entry in http.get("/v1/scorers").json()["scorers"]}
    assert listed["prior_references"]["direction"] == "lower"
    assert listed["soft_f1"]["needs"] == ["reference.boxes", "box_format"]
    assert listed["soft_f1"]["params"]["empty_match_value"] == 1.0


def test_metrics_count_scores_and_errors_without_text(http: httpx.Client) -> None:
    http.post("/v1/score", json={"items": [item(completion=SECRET, reference={})], "scorers": ["soft_f1", "format"]})
    text = http.get("/metrics").text
    assert 'overread_rewards_errors_total{code="missing_input",scorer="soft_f1"}' in text
    assert 'overread_rewards_scores_total{scorer="format"}' in text
    assert SECRET not in text


def test_the_service_runs_without_torch_vllm_or_ray(server: Server) -> None:
    assert server.address
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert not any(name in mapped for name in ("libtorch", "/vllm/", "/ray/"))


def test_a_service_that_loads_answers_503_and_tells_which_scorer(tmp_path: Path) -> None:
    loaded = threading.Event()
    app = create_app(RewardServiceSettings(), None, scorers=scorer(lambda items, _: [], load=loaded.wait))
    with running(app) as address:
        response = httpx.post(f"{address}/v1/score", json={"items": [item()]}, trust_env=False)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        ready = httpx.get(f"{address}/readyz", trust_env=False)
        assert (ready.status_code, ready.json()["scorers"]["made_up"]["state"]) == (503, "loading")
        loaded.set()


def test_a_scorer_that_can_not_be_loaded_is_not_ready_with_its_remedy() -> None:
    def load() -> None:
        raise ImportError(SECRET)

    with running(create_app(RewardServiceSettings(), None, scorers=scorer(lambda items, _: [], load=load))) as address:
        deadline = time.monotonic() + READY_S
        while True:
            state = httpx.get(f"{address}/readyz", trust_env=False).json()
            if state["scorers"]["made_up"]["state"] == "failed" or time.monotonic() > deadline:
                break
        assert state["ready"] is False
        assert "pip install" in state["scorers"]["made_up"]["remedy"]


def test_a_full_service_answers_429_and_the_client_waits_it_out() -> None:
    go_on = threading.Event()

    def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        go_on.wait(30)
        return [Score(value=0.5) for _ in items]

    async def both(address: str) -> tuple[RolloutGroup, RolloutGroup, list[Retry]]:
        retries: list[Retry] = []

        def on_retry(retry: Retry) -> None:
            retries.append(retry)
            go_on.set()

        client = RewardClient([address], None, 30.0, on_retry=on_retry)
        await client.wait_ready(READY_S)
        first = asyncio.create_task(client.score_group(group(["x"] * 3), ["made_up"], {}))
        await asyncio.to_thread(wait_for_pending, address, 3)
        second = await client.score_group(group(["y"] * 2), ["made_up"], {})
        await client.close()
        return await first, second, retries

    settings = RewardServiceSettings(max_pending_items=4)
    with running(create_app(settings, None, scorers=scorer(score))) as address:
        first, second, retries = asyncio.run(both(address))
    assert [c.scores["made_up"].value for c in (*first.completions, *second.completions)] == [0.5] * 5
    assert {retry.cause for retry in retries} == {"busy"}


def test_a_scorer_that_fails_for_one_item_is_an_error_entry_through_http() -> None:
    def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        return [Score(value=1.0 / len(item.answer)) for item in items]

    async def scored(address: str) -> RolloutGroup:
        client = RewardClient([address], None, 30.0)
        await client.wait_ready(READY_S)
        result = await client.score_group(group(["", "ab"]), ["made_up"], {})
        await client.close()
        return result

    with running(create_app(RewardServiceSettings(), None, scorers=scorer(score))) as address:
        failed, fine = asyncio.run(scored(address)).completions
    assert failed.scores == {}
    assert failed.errors["made_up"].code == "scorer_failed"
    assert fine.scores["made_up"].value == 0.5


def test_sigterm_lets_a_request_finish(tmp_path: Path) -> None:
    """A request that is on its way when the signal comes is answered, and the status is 0."""
    started = Server(tmp_path / "service")
    body = json.dumps({"items": [item(task="report", completion="word " * 2_000)] * 300}).encode()
    address = started.address
    replies: list[httpx.Response] = []
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def ask() -> None:
        replies.append(httpx.post(f"{address}/v1/score", content=body, headers=headers, timeout=60, trust_env=False))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for_pending(address, 300)
    assert started.stop() == 0
    thread.join(timeout=60)
    assert replies[0].status_code == 200
    assert len(replies[0].json()["results"]) == 300


# the client


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


async def test_a_second_address_takes_over() -> None:
    def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        return [Score(value=0.5) for _ in items]

    with running(create_app(RewardServiceSettings(), None, scorers=scorer(score))) as address:
        client = RewardClient([f"http://127.0.0.1:{free_port()}", address], None, 30.0)
        scored = await client.score_group(group(["x"]), ["made_up"], {})
        await client.close()
    assert scored.completions[0].scores["made_up"].value == 0.5


async def test_past_the_deadline_there_is_an_error_and_no_score() -> None:
    client = RewardClient([f"http://127.0.0.1:{free_port()}"], None, 1.0)
    with pytest.raises(RewardError, match=r"within 1 s.*attempts") as error:
        await client.score_group(group([SECRET]), ["soft_f1"], {})
    assert error.value.code == "unreachable"
    assert SECRET not in str(error.value)
    with pytest.raises(DeadlineError, match="waited"):
        await client.wait_ready(0.5)
    await client.close()


async def test_a_service_that_never_replies_is_a_deadline() -> None:
    release = threading.Event()

    def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        release.wait(30)
        return [Score(value=0.0) for _ in items]

    with running(create_app(RewardServiceSettings(), None, scorers=scorer(score))) as address:
        client = RewardClient([address], None, 2.0)
        await client.wait_ready(READY_S)
        with pytest.raises(RewardError) as error:
            await client.score_group(group(["x"]), ["made_up"], {})
        await client.close()
        release.set()
    assert error.value.code == "deadline"


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


# the contract


def put_boxes_in_order(body: Any) -> None:
    """The one rule that JSON Schema can't say: x1 < x2 and y1 < y2."""
    for entry in body["items"]:
        for box in entry["reference"].get("boxes") or ():
            x1, y1, x2, y2 = box["box"]
            (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
            box["box"] = [x1 if x1 < x2 else 0, y1 if y1 < y2 else 0, x2 if x1 < x2 else 1, y2 if y1 < y2 else 1]


POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        ("POST", "/v1/score", POSITIVE),
        ("POST", "/v1/score", NEGATIVE),
        # A GET without parameters has nothing that could be wrong.
        *(("GET", path, POSITIVE) for path in ("/v1/scorers", "/healthz", "/readyz", "/metrics")),
    ],
)
def test_what_the_document_allows_or_forbids_is_answered_as_documented(
    server: Server, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    # By hand, since schemathesis 4.32's pytest plugin does not know pytest 9.
    headers = {"Authorization": f"Bearer {TOKEN}"}
    document = schemathesis.openapi.from_url(f"{server.address}/openapi.json")

    @hypothesis.given(case=document[path][method].as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    def answered(case: Any) -> None:
        if method == "POST" and mode is POSITIVE:
            put_boxes_in_order(case.body)
        statuses.add(case.call_and_validate(headers=headers, timeout=30).status_code)

    statuses: set[int] = set()
    answered()
    assert statuses == {200} if mode is POSITIVE else 422 in statuses


def test_the_command_refuses_a_taken_port_in_one_line(server: Server) -> None:
    port = server.address.rpartition(":")[2]
    result = subprocess.run(
        [sys.executable, "-m", "rewards.serve", "--port", port],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert port in result.stderr
