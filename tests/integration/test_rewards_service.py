"""The reward service as a real process on loopback: replies, limits, privacy, stopping, the OpenAPI contract."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from made_up_scorer import LOAD_VARIABLE, PLUGIN, SECRET
from rewards_server import READY_S, REPOSITORY, TOKEN, Server, group, item, made_up, running, scored, wait_for_pending

from rewards.app import create_app
from rewards.client import Retry, RewardClient
from schemas.group import RolloutGroup

pytestmark = pytest.mark.integration


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
    assert reply["versions"] == {"soft_f1": "2"}


def test_without_names_a_task_gets_its_own_scorers(http: httpx.Client) -> None:
    reply = http.post("/v1/score", json={"items": [item(), item(task="report", completion="No effusion.")]}).json()
    listed = http.get("/v1/scorers").json()["scorers"]
    for result, task in zip(reply["results"], ("grounding", "report"), strict=True):
        own = {entry["name"] for entry in listed if entry["tier"] == "embedded" and task in entry["tasks"]} - {
            "overlong"
        }
        assert result["scores"].keys() | result["errors"].keys() == own


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


def test_a_request_for_no_scorers_gets_no_scores(http: httpx.Client) -> None:
    reply = http.post("/v1/score", json={"items": [item(), item(id="b")], "scorers": []}).json()
    empty: dict[str, Any] = {"scores": {}, "errors": {}}
    assert reply == {"results": [{"id": "a", **empty}, {"id": "b", **empty}], "versions": {}}


def test_a_completion_that_is_too_long_costs_only_itself(http: httpx.Client) -> None:
    body = {"items": [item(), item(completion=SECRET * 5_000), item()], "scorers": ["soft_f1", "radgraph_f1"]}
    first, second, third = http.post("/v1/score", json=body).json()["results"]
    assert first["scores"]["soft_f1"]["value"] == third["scores"]["soft_f1"]["value"] == pytest.approx(1.0)
    assert second["scores"] == {}
    assert {name: error["code"] for name, error in second["errors"].items()} == dict.fromkeys(
        body["scorers"], "too_long"
    )
    assert SECRET not in json.dumps(second)


def test_too_many_items_and_too_long_a_text_are_413_and_named(http: httpx.Client) -> None:
    response = http.post("/v1/score", json={"items": [item()] * 1025})
    assert response.status_code == 413
    assert response.json()["fields"] == [{"field": "items", "rule": "at most 1024 items; given: 1025"}]
    for field, changes in (
        ("question", {"question": SECRET * 5_000}),
        ("reference.report", {"reference": {"report": SECRET * 5_000}}),
    ):
        response = http.post("/v1/score", json={"items": [item(), item(**changes)]})
        assert response.status_code == 413
        assert response.json()["fields"][0]["field"] == f"items[1].{field}"
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


def test_a_service_that_loads_answers_503_and_tells_which_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOAD_VARIABLE, str(tmp_path / "loaded"))
    with running(create_app(made_up())) as address:
        response = httpx.post(f"{address}/v1/score", json={"items": [item()]}, trust_env=False)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        ready = httpx.get(f"{address}/readyz", trust_env=False)
        assert (ready.status_code, ready.json()["scorers"]["made_up"]["state"]) == (503, "loading")
        (tmp_path / "loaded").touch()


@pytest.mark.parametrize(("told", "remedy"), [("fail", "pip install"), ("die", "log")])
def test_a_scorer_that_can_not_be_loaded_is_not_ready_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, told: str, remedy: str
) -> None:
    monkeypatch.setenv(LOAD_VARIABLE, told)
    with running(create_app(made_up())) as address:
        deadline = time.monotonic() + READY_S
        while True:
            state = httpx.get(f"{address}/readyz", trust_env=False).json()
            if state["scorers"]["made_up"]["state"] == "failed" or time.monotonic() > deadline:
                break
        assert state["ready"] is False
        assert remedy in state["scorers"]["made_up"]["remedy"]
        assert SECRET not in json.dumps(state)


def test_a_full_service_answers_429_and_the_client_waits_it_out(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"

    async def both(address: str) -> tuple[RolloutGroup, RolloutGroup, list[Retry]]:
        retries: list[Retry] = []

        def on_retry(retry: Retry) -> None:
            retries.append(retry)
            go_on.touch()

        client = RewardClient([address], None, 30.0, on_retry=on_retry)
        await client.wait_ready(READY_S)
        first = asyncio.create_task(client.score_group(group([f"wait {go_on}"] * 3), ["made_up"], {}))
        await asyncio.to_thread(wait_for_pending, address, 3)
        second = await client.score_group(group(["yy"] * 2), ["made_up"], {})
        await client.close()
        return await first, second, retries

    with running(create_app(made_up(max_pending_items=4))) as address:
        first, second, retries = asyncio.run(both(address))
    assert [c.scores["made_up"].value for c in second.completions] == [0.5] * 2
    assert len({c.scores["made_up"].value for c in first.completions}) == 1
    assert {retry.cause for retry in retries} == {"busy"}


def test_a_scorer_that_fails_for_one_item_is_an_error_entry_through_http() -> None:
    with running(create_app(made_up())) as address:
        failed, fine = asyncio.run(scored(address, ["", "ab"])).completions
    assert failed.scores == {}
    assert failed.errors["made_up"].code == "scorer_failed"
    assert fine.scores["made_up"].value == 0.5


def test_a_reference_is_computed_once_and_the_hit_rate_is_a_metric(http: httpx.Client) -> None:
    def lookups(result: str) -> float:
        (line,) = re.findall(rf'lookups_total{{result="{result}"}} (.*)', http.get("/metrics").text)
        return float(line)

    report = "A reference that no other test has. There is a large left pleural effusion."
    body = {"items": [item(task="report", reference={"report": report})] * 8, "scorers": ["rouge_l", "chexpert_f1"]}
    http.post("/v1/score", json=body)  # so that both counters are there
    hits, misses = lookups("hit"), lookups("miss")
    http.post("/v1/score", json=body)
    assert (lookups("hit") - hits, lookups("miss") - misses) == (16, 0)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_a_request_finish(tmp_path: Path, signal_number: int) -> None:
    """A request that is being scored when the signal comes is answered, and the status is 0."""
    go_on = tmp_path / "go-on"
    started = Server(tmp_path / "service", config=f'plugins = ["{PLUGIN}"]\nscorers = ["made_up"]\nworkers = 1\n')
    body = {"items": [item(completion=f"wait {go_on}"), item(completion="ab")], "scorers": ["made_up"]}
    address = started.address
    replies: list[httpx.Response] = []
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def ask() -> None:
        replies.append(httpx.post(f"{address}/v1/score", json=body, headers=headers, timeout=60, trust_env=False))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for_pending(address, 2)
    started.process.send_signal(signal_number)
    with pytest.raises(subprocess.TimeoutExpired):
        started.process.wait(0.5)
    go_on.touch()
    assert started.process.wait(timeout=30) == 0
    thread.join(timeout=60)
    assert replies[0].status_code == 200
    assert replies[0].json()["results"][1]["scores"]["made_up"]["value"] == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"thinking": "yes"},
        {"token_count": "5"},
        {"reference": {"boxes": [{"box": [False, False, True, True]}]}},
        {"reference": {"boxes": [{"box": ["0.1", 0.1, 0.2, 0.2]}]}},
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(http: httpx.Client, changes: dict[str, object]) -> None:
    assert http.post("/v1/score", json={"items": [item(**changes)]}).status_code == 422


def test_a_flood_of_wrong_items_or_names_is_answered_in_short(http: httpx.Client) -> None:
    for body in ({"items": [1] * 200_000}, {"items": [item()], "scorers": [f"soft_f{n}" for n in range(100_000)]}):
        response = http.post("/v1/score", json=body)
        assert response.status_code == 422
        assert len(response.content) < 20_000


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
