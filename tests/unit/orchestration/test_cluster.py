from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest
from ray.exceptions import RayActorError

from orchestration.cluster import FLOORS, Cluster, LearnerGroup, Worker
from orchestration.groups import GroupOrder, GroupSummary
from orchestration.stages import Stages
from orchestration.waits import Waits
from rollout.worker import PushReport
from schemas.errors import LearnerError, RolloutError, WeightPushError
from schemas.group import Sampling
from schemas.prompt import Prompt, Reference

PROMPT = Prompt(
    prompt_id="p",
    task="report",
    question="q",
    reference=Reference(report="r"),
    dataset="d",
    patient_id="p",
    study_id="s",
    split="train",
)
ORDER = GroupOrder("g", PROMPT, 0, 0, Sampling(max_tokens=4), 1)


class Method:
    """Stands for a remote method: what it returns, or raises, arrives on await, as with an object reference."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer

    def options(self, num_returns: int) -> Method:
        return Method(lambda *args: self._answer(*args))

    def remote(self, *args: Any) -> Any:
        answer = self._answer(*args)
        return tuple(_later(part) for part in answer) if isinstance(answer, tuple) else _later(answer)


class _later:  # noqa: N801 - reads as what it is: a value that arrives on await
    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class FakeActor:
    def __init__(self, **methods: Callable[..., Any]) -> None:
        for name, answer in methods.items():
            setattr(self, name, Method(answer))


def _summary(version: int = 1) -> GroupSummary:
    return GroupSummary("g", "w", version, (3,), (None,), {}, {}, 0.1, 0.0)


def _rollout_actor(push: Any = None, canary_version: int = 1, stats: Any = None) -> FakeActor:
    report = PushReport(seconds=0.1, pause_s=0.05, bytes=8, tensors=1)
    return FakeActor(
        receive_weights=lambda version, weights: push or report,
        generate=lambda order: (_summary(canary_version), "group"),
        stats=lambda: stats or {"running": 1.0, "waiting": 0.0, "reward_retries": 0.0},
    )


def _learner(gap: float) -> LearnerGroup:
    actor = FakeActor(
        weights=lambda version: (8, "weights"), logprobs=lambda group: [[[[-1.0, -2.0 + gap]]], [[[-1.0, -2.0]]]]
    )
    return LearnerGroup([actor], Waits(FLOORS))


def _cluster(*actors: FakeActor) -> Cluster:
    return Cluster(
        [Worker(f"rollout-{i}", a) for i, a in enumerate(actors)], None, Waits({**FLOORS, "generation": 60.0}), 1e-3
    )


async def test_a_push_reports_the_canarys_gap() -> None:
    push = await _cluster(_rollout_actor()).push_weights(_learner(1e-5), 1, PROMPT)
    assert push.canary_gap == pytest.approx(1e-5, rel=1e-3)
    assert (push.version, push.bytes) == (1, 8)


@pytest.mark.parametrize("gap", [0.5, float("nan")])
async def test_a_canary_that_disagrees_refuses_the_push(gap: float) -> None:
    with pytest.raises(WeightPushError, match="canary_tolerance"):
        await _cluster(_rollout_actor()).push_weights(_learner(gap), 1, PROMPT)


async def test_a_canary_that_answers_with_old_weights_refuses_the_push() -> None:
    with pytest.raises(WeightPushError, match="version 0"):
        await _cluster(_rollout_actor(canary_version=0)).push_weights(_learner(0.0), 1, PROMPT)


async def test_a_worker_that_dies_in_a_push_is_left_out_and_the_others_go_on() -> None:
    cluster = _cluster(_rollout_actor(push=RayActorError()), _rollout_actor())
    await cluster.push_weights(_learner(0.0), 1, PROMPT)
    assert [worker.alive for worker in cluster.workers] == [False, True]
    assert (await cluster.stats())["running"] == 1.0


async def test_without_a_worker_a_push_says_so() -> None:
    with pytest.raises(RolloutError, match="no_worker"):
        await _cluster(_rollout_actor(push=RayActorError())).push_weights(_learner(0.0), 1, PROMPT)


async def test_a_worker_whose_engine_is_dead_stays_out_whatever_its_other_groups_say() -> None:
    answers = iter([RolloutError("engine_dead", "x"), RolloutError("image", "y")])
    healthy = FakeActor(produce=lambda order: (_summary(), "group"))
    cluster = _cluster(FakeActor(produce=lambda order: (next(answers), None)), healthy)
    dead = cluster.workers[0]
    cluster.workers[1].in_flight = 5  # so that both go to the dying one
    outcomes = await asyncio.gather(cluster.produce(ORDER), cluster.produce(ORDER), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RolloutError}
    assert not dead.alive
    assert (await cluster.produce(ORDER))[0].group_id == "g"


async def test_a_rank_that_dies_names_the_learner_and_its_log() -> None:
    learner = LearnerGroup([FakeActor(weights=lambda version: (RayActorError(), None))], Waits(FLOORS))
    with pytest.raises(LearnerError, match=r"learner-\*\.log"):
        await _cluster(_rollout_actor()).push_weights(learner, 1, PROMPT)


def test_a_stage_inside_another_is_not_counted_twice() -> None:
    stages = Stages()
    with stages.stage("outer"), stages.stage("inner"):
        pass
    seconds = stages.seconds()
    assert seconds["outer"] + seconds["inner"] <= seconds["total"] + 0.002
