"""The reward service on a Ray cluster: same scores, none lost with a replica, nothing left behind."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI, Response
from made_up_scorer import PLUGIN, SECRET
from rewards_server import REPOSITORY, TOKEN, free_port, group, item, running

from orchestration.cluster import ray_session
from orchestration.service import reward_access
from rewards.client import Retry, RewardClient
from rewards.scale import ScaleSettings
from rewards.scorer import NoParams
from rewards.scorers.registry import available
from rewards.settings import RewardServiceSettings
from rewards.wire import ScoreRequest
from schemas.errors import ConfigError, RewardError

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

START_S = 180.0
SCORERS = ("made_up", "soft_f1")
CONFIG = f"plugins = [{PLUGIN!r}]\nscorers = {list(SCORERS)}\nscale = {{ cpus_per_replica = 0.5 }}\n"
TEXTS = ["At [0.1, 0.2, 0.3, 0.4].", "At [0.5, 0.5, 0.9, 0.9].", "Nowhere."]


def _settings(**scale: Any) -> RewardServiceSettings:
    values = {"plugins": (PLUGIN,), "weights": {"grounding": {"made_up": 1.0, "soft_f1": 1.0}}}
    return RewardServiceSettings(**values, scale=ScaleSettings(replicas=1, cpus_per_replica=0.5, **scale))


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class ScaledServer:
    """``overread rewards serve --replicas 2``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.log = folder / "log"
        (folder / "token").write_text(TOKEN)
        (folder / "config.toml").write_text(CONFIG)
        self.address = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "orchestration.cli", "rewards", "serve", "--replicas", "2", *options]
        command += ["--token-file", str(folder / "token"), "--config", str(folder / "config.toml")]
        command += ["--port", self.address.rsplit(":", 1)[1]]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True)
        _until(lambda: f"ready at {self.address}" in self.log.read_text() or self.process.poll() is not None, "start")
        assert self.process.poll() is None, self.log.read_text()
        raylets = [" ".join(p.cmdline()) for p in self.family() if "raylet" in p.name()]
        self.session = Path(re.findall(r"=(/\S*/session_[^/]+)/", raylets[0])[0]) if raylets else None

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self) -> list[psutil.Process]:
        return [p for p in self.family() if p.cmdline()[:1] and "ServeReplica:overread-rewards" in p.cmdline()[0]]

    def pending(self) -> list[float]:
        """Items in work, by replica."""
        text = httpx.get(f"{self.address}/metrics", headers=_bearer(TOKEN), trust_env=False).text
        return [
            float(value) for value in re.findall(r"^overread_rewards_pending_items\{replica=.*\} (\S+)$", text, re.M)
        ]


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScaledServer]:
    started = ScaledServer(tmp_path_factory.mktemp("serve"))
    yield started
    started.process.kill()
    started.process.wait()


@pytest.fixture
def http(server: ScaledServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, trust_env=False, timeout=60) as client:
        yield client


def test_the_probes_and_the_documentation_are_there(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json()["ready"] is True
    assert "/v1/score" in http.get("/openapi.json").json()["paths"]
    assert "swagger" in http.get("/docs").text
    known = http.get("/v1/scorers", headers=_bearer(TOKEN)).json()["scorers"]
    assert {scorer["name"] for scorer in known} == set(SCORERS)


@pytest.mark.parametrize("path", ["/v1/score", "/v1/scorers", "/metrics"])
@pytest.mark.parametrize("headers", [{}, _bearer("another")])
def test_without_the_token_nothing_is_told(http: httpx.Client, path: str, headers: dict[str, str]) -> None:
    reply = http.request("POST" if path == "/v1/score" else "GET", path, headers=headers)
    assert reply.status_code == 401
    assert reply.json()["code"] == "unauthorized"


def test_scores_equal_the_scorers_own(http: httpx.Client) -> None:
    body = {"items": [item(id=str(i), completion=text) for i, text in enumerate(TEXTS)], "scorers": SCORERS}
    items = ScoreRequest.model_validate(body).score_items()
    reply = http.post("/v1/score", json=body, headers=_bearer(TOKEN)).json()
    for name in SCORERS:
        scorer = available((PLUGIN,))[name]
        assert scorer.score is not None
        own = scorer.score(items, NoParams() if name == "made_up" else scorer.params())
        assert [result["scores"][name] for result in reply["results"]] == [score.model_dump() for score in own]


def test_each_replicas_metrics_are_told_by_whichever_is_asked(server: ScaledServer) -> None:
    assert server.pending() == [0.0, 0.0]
    assert len(server.replicas()) == 2


async def _score_all(address: str, texts: list[str], on_retry: Callable[[Retry], None]) -> list[float]:
    client = RewardClient([address], TOKEN, 120.0, on_retry=on_retry)
    try:
        groups = [client.score_group(group([text]), ("made_up",), {}) for text in texts]
        return [scored.completions[0].scores["made_up"].value for scored in await asyncio.gather(*groups)]
    finally:
        await client.close()


async def test_a_killed_replicas_requests_are_not_lost(server: ScaledServer, tmp_path: Path) -> None:
    go, retries = tmp_path / "go", list[Retry]()
    texts = [f"wait {go}"] * 8
    scores = asyncio.create_task(_score_all(server.address, texts, retries.append))
    await asyncio.to_thread(_until, lambda: sum(server.pending()) == 8 and min(server.pending()) > 0, "8 in work")
    victim = server.replicas()[0]
    processes = [victim, *victim.children(recursive=True)]
    victim.kill()
    await asyncio.to_thread(_until, lambda: bool(retries), "a retry")
    go.touch()
    assert await scores == [1 / len(texts[0])] * 8
    assert {retry.cause for retry in retries} <= {"server_error", "not_ready"}
    await asyncio.to_thread(_until, lambda: len(server.replicas()) == 2, "a new replica")
    await asyncio.to_thread(_until, lambda: all(map(_gone, processes)), "the killed replica's scorers end")


def test_a_taken_port_is_refused(server: ScaledServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestration.cli", "rewards", "serve", "--replicas", "1", "--port"]
    done = subprocess.run(
        [*command, server.address.rsplit(":", 1)[1]], cwd=REPOSITORY, capture_output=True, text=True, timeout=START_S
    )
    assert done.returncode == 2
    assert "rewards.port: must be free on its host" in done.stderr


async def test_told_to_stop_it_answers_what_it_has_and_leaves_nothing(server: ScaledServer, tmp_path: Path) -> None:
    go, retries = tmp_path / "go", list[Retry]()
    scores = asyncio.create_task(_score_all(server.address, [f"wait {go}"] * 2, retries.append))
    await asyncio.to_thread(_until, lambda: sum(server.pending()) == 2, "2 in work")
    family = server.family()
    os.killpg(server.process.pid, signal.SIGINT)  # Ctrl-C: the whole process group
    await asyncio.to_thread(_until, lambda: "no more requests are taken" in server.log.read_text(), "the stop")
    await asyncio.sleep(1)
    go.touch()
    assert await scores == [1 / len(f"wait {go}")] * 2
    assert not retries
    assert await asyncio.to_thread(server.process.wait, 120) == 0
    assert [process for process in family if not _gone(process)] == []


def test_no_text_is_logged(server: ScaledServer) -> None:
    """After all the others: Ray Serve's logs and ours hold neither paths nor texts of requests."""
    assert server.session is not None
    logs = [*server.session.glob("logs/serve/*.log"), *server.session.glob("logs/worker-*"), server.log]
    assert len(logs) > 5
    for log in logs:
        text = log.read_text(errors="replace")
        assert not [told for told in (*TEXTS, "/v1/score", "wait /", TOKEN, SECRET) if told in text], log


class Events:
    """What a run would write to events.jsonl."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}

    def __call__(self, kind: str, **fields: Any) -> None:
        self.seen[kind] = fields


async def test_a_runs_replicas_answer_it_and_end_with_it_on_an_error_too(tmp_path: Path) -> None:
    events, seen = Events(), list[Any]()

    async def run() -> None:
        async with ray_session(), reward_access(_settings(), tmp_path, events) as access:
            client = RewardClient(access.addresses, access.token, 60.0)
            scored = await client.score_group(group(["four"]), SCORERS, {})
            await client.close()
            seen.extend([access, psutil.Process().children(recursive=True), scored])
            raise KeyError("the run's own")

    with pytest.raises(KeyError, match="the run's own"):
        await run()
    access, family, scored = seen
    assert scored.completions[0].scores["made_up"].value == 0.25
    assert events.seen["reward_service_started"] == {"replicas": 1, "addresses": access.addresses}
    assert access.addresses[0].startswith("http://127.0.0.1:")
    assert [process for process in family if not _gone(process)] == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240 - nothing else runs
    assert [path.stat().st_mode & 0o077 for path in files if path.name.startswith("rewards-")] == [0]
    assert not [path for path in files if access.token in path.read_text()]


async def test_replicas_that_can_not_start_end_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MADE_UP_LOAD", "fail")
    with pytest.raises(RewardError, match=r"not_ready: made_up"):
        async with ray_session(), reward_access(_settings(), tmp_path, Events()):
            pass


async def test_a_404_of_a_proxy_is_an_outage() -> None:
    """What Ray Serve's proxy answers before the app is there, and after."""
    app, calls = FastAPI(), list[int]()

    @app.post("/v1/score")
    def score() -> Response:
        calls.append(1)
        if len(calls) < 3:
            return Response("Path '/v1/score' not found.", status_code=404)
        return Response('{"results": [{"id": "0", "scores": {"s": {"value": 1.0}}, "errors": {}}], "versions": {}}')

    with running(app) as address:
        client = RewardClient([address], None, 30.0)
        scored = await client.score_group(group(["a"]), ("s",), {})
        await client.close()
    assert scored.completions[0].scores["s"].value == 1.0


@pytest.fixture
def ray_head(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster that outlives whoever uses it; its address."""
    ray, port = Path(sys.executable).with_name("ray"), free_port()
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "cd" * 32}.items():
        monkeypatch.setenv(name, value)
    folder = tempfile.mkdtemp(prefix="ray-")  # short, it holds sockets; and not the one that others look in
    command = [ray, "start", "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--block"]
    head = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: _listens(port), "the head")
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _actors() -> list[psutil.Process]:
    found = psutil.process_iter(["name"])
    return [p for p in found if re.match(r"ray::(Serve|Proxy|Keeper|Beacon)", p.info["name"] or "")]


def test_a_killed_driver_leaves_no_replica_on_a_cluster_that_lives_on(ray_head: str, tmp_path: Path) -> None:
    server = ScaledServer(tmp_path, "--ray-address", ray_head)
    assert _actors()
    second = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "rewards", "serve", "--replicas", "1", "--ray-address", ray_head],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert second.returncode == 2
    assert "needs a Ray cluster without Ray Serve" in second.stderr
    server.process.kill()
    server.process.wait()
    _until(lambda: not _actors(), "the keeper's work")


def test_more_than_the_cluster_has_is_refused_at_once() -> None:
    command = [sys.executable, "-m", "orchestration.cli", "rewards", "serve", "--replicas", "1", "--port", "0"]
    done = subprocess.run(
        [*command, "--cpus-per-replica", "4096"], cwd=REPOSITORY, capture_output=True, text=True, timeout=START_S
    )
    assert done.returncode == 2
    assert "reward.scale.cpus_per_replica: must fit 1 times" in done.stderr
    assert ConfigError.__name__ not in done.stderr
