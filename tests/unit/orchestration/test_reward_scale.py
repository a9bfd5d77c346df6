"""Beside the reward service's replicas: GPUs for engines and ranks, the command's options, the metrics of all."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestration.placement import share_gpus
from orchestration.replica_metrics import AllReplicasMetrics, Message, Receive, Scope, Send, merge
from orchestration.serve_command import with_scale
from rewards.scale import ScaleSettings
from rewards.settings import RewardServiceSettings
from schemas.errors import ConfigError


def _scale(replicas: int, gpus: float, most: int = 0) -> ScaleSettings:
    return ScaleSettings(replicas=replicas, max_replicas=most, gpus_per_replica=gpus)


@pytest.mark.parametrize(
    ("processes", "gpus", "nodes", "scale", "share"),
    [
        (3, 0, 0, _scale(2, 0.5), 0.0),
        (3, 4, 1, ScaleSettings(), 1.0),
        (3, 2, 1, ScaleSettings(), 0.5),
        (7, 8, 1, _scale(2, 0.5), 1.0),  # both on one GPU
        (7, 8, 2, _scale(2, 0.5), 0.5),  # one on each node: two GPUs
        (7, 8, 1, _scale(1, 0.5, most=4), 0.5),  # room for all that scaling may start
        (2, 1, 1, _scale(1, 0.25), 0.375),  # one GPU for all
        (7, 1, 1, _scale(1, 0.25), 0.1071),  # rounded down to what Ray counts in
    ],
)
def test_engines_get_what_the_replicas_leave(
    processes: int, gpus: int, nodes: int, scale: ScaleSettings, share: float
) -> None:
    assert share_gpus(processes, gpus, nodes, scale) == pytest.approx(share)


@pytest.mark.parametrize(("gpus", "scale"), [(1, _scale(1, 1.0)), (2, _scale(4, 0.5)), (1, _scale(2, 0.5))])
def test_replicas_that_leave_no_gpu_are_refused(gpus: int, scale: ScaleSettings) -> None:
    with pytest.raises(ConfigError, match=r"reward\.scale\.gpus_per_replica"):
        share_gpus(2, gpus, 1, scale)


@given(
    processes=st.integers(1, 40),
    per_node=st.integers(1, 8),
    nodes=st.integers(1, 4),
    replicas=st.integers(0, 12),
    each=st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 1.0, 2.0]),
)
def test_replicas_and_engines_fit_onto_the_cluster(
    processes: int, per_node: int, nodes: int, replicas: int, each: float
) -> None:
    assume(per_node * nodes > 1)
    try:
        share = share_gpus(processes, per_node * nodes, nodes, _scale(replicas, each))
    except ConfigError:
        assert replicas * each > 0
        return
    free = [[1.0] * per_node for _ in range(nodes)]
    for replica in range(replicas):  # as Ray does: node after node, on a node where the least is left
        node = free[replica % nodes]
        for _ in range(max(1, int(each))):
            cards = [card for card, left in enumerate(node) if left >= min(each, 1) - 1e-9]
            assume(cards)  # else these replicas wait for a node for ever, with or without engines
            node[min(cards, key=node.__getitem__)] -= min(each, 1)
    places = sum(math.floor(left / share + 1e-9) for node in free for left in node)
    assert places >= processes


def test_options_change_the_files_scale() -> None:
    settings = RewardServiceSettings(scale=_scale(2, 0.5, most=8))
    changed = with_scale(settings, {"replicas": 3, "max_replicas": None, "gpus_per_replica": None})
    assert changed.scale == _scale(3, 0.5, most=8)
    assert changed.model_copy(update={"scale": settings.scale}) == settings


@pytest.mark.parametrize(
    ("given_options", "words"),
    [
        ({"replicas": 4, "max_replicas": 2}, "at least replicas = 4"),
        ({"max_replicas": 2}, "needs replicas"),
        ({"gpus_per_replica": 0.5}, "must be given"),
        ({}, "must be given"),  # --ray-address alone
    ],
)
def test_options_that_make_no_sense_are_refused(given_options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_scale(RewardServiceSettings(), given_options)


def _exposition(**counts: int) -> str:
    registry = CollectorRegistry()
    counter = Counter("scores", "Scores given, by scorer.", ["scorer"], registry=registry)
    Counter("plain", "Without labels.", registry=registry).inc(5)
    for scorer, count in counts.items():
        counter.labels(scorer).inc(count)
    return generate_latest(registry).decode()


def test_merged_metrics_are_the_replicas_own_with_their_names() -> None:
    own = {"r1": _exposition(soft_f1=2, rouge_l=3), "r2": _exposition(soft_f1=4), "r3": _exposition()}
    merged = list(text_string_to_metric_families(merge(own)))
    assert len({family.name for family in merged}) == len(merged)  # each stands together
    got = {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in merged
        for sample in family.samples
    }
    wanted = {
        (sample.name, tuple(sorted({**sample.labels, "replica": replica}.items())), sample.value)
        for replica, text in own.items()
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert got == wanted
    assert any(dict(labels).get("scorer") == "soft_f1" for _, labels, _ in wanted)


async def _reply(layer: AllReplicasMetrics, path: str) -> tuple[int, str]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    await layer({"type": "http", "path": path}, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


def _app(status: int) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"its own"})

    return app


async def _two() -> dict[str, str]:
    return {"r1": "# HELP a A.\n# TYPE a gauge\na 1.0\n", "r2": "# HELP a A.\n# TYPE a gauge\na 2.0\n"}


async def _late() -> dict[str, str]:
    raise TimeoutError


def test_the_app_decides_who_sees_the_metrics() -> None:
    assert asyncio.run(_reply(AllReplicasMetrics(_app(401), _two), "/metrics")) == (401, "its own")


def test_everything_else_is_the_apps() -> None:
    assert asyncio.run(_reply(AllReplicasMetrics(_app(200), _late), "/v1/score")) == (200, "its own")


def test_metrics_of_all_or_of_none() -> None:
    status, text = asyncio.run(_reply(AllReplicasMetrics(_app(200), _two), "/metrics"))
    assert (status, text.splitlines()[2:]) == (200, ['a{replica="r1"} 1.0', 'a{replica="r2"} 2.0'])
    assert asyncio.run(_reply(AllReplicasMetrics(_app(200), _late), "/metrics"))[0] == 503
