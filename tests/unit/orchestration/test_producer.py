from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.buffer import GroupBuffer
from orchestration.config import Recipe, validate_recipe
from orchestration.groups import GroupOrder, GroupSummary, group_seed
from orchestration.ledger import Issue
from orchestration.producer import ATTEMPTS, IssueOrder, Produced, Producer, TooManyDrops, producing
from orchestration.run import RunFolder
from prompts.source import PromptSource
from schemas.errors import RewardError, RolloutError
from schemas.prompt import Prompt, Reference

PROMPTS = [
    Prompt(
        prompt_id=f"p{n}",
        task="report",
        question="Write a report.",
        reference=Reference(report="Clear lungs."),
        dataset="d",
        patient_id=f"q{n}",
        study_id="s",
        split="train",
    )
    for n in range(5)
]


def _recipe(groups_per_step: int = 2, max_staleness: int = 0) -> Recipe:
    return validate_recipe(
        {
            "name": "t",
            "steps": 3,
            "groups_per_step": groups_per_step,
            "max_staleness": max_staleness,
            "data": {"path": "nowhere"},
            "reward": {},
        }
    )


def _summary(order: GroupOrder, rewards: tuple[float | None, ...] = (0.0, 1.0)) -> GroupSummary:
    return GroupSummary(order.group_id, "w", 0, (3, 4), rewards, {}, {}, 0.1, 0.0)


class FakeRollouts:
    """A cluster whose workers answer as told; the engine itself is tested in tests/integration."""

    def __init__(self, answer: Callable[[GroupOrder, int], GroupSummary]) -> None:
        self._answer = answer
        self.orders: list[GroupOrder] = []

    async def produce(self, order: GroupOrder) -> tuple[GroupSummary, object]:
        self.orders.append(order)
        attempt = sum(o.group_id == order.group_id for o in self.orders)
        return self._answer(order, attempt), f"ref of {order.group_id}"


def _setup(
    tmp_path: Path, rollouts: FakeRollouts, left_open: tuple[Issue, ...] = (), groups_wanted: int = 1000
) -> tuple[Producer, GroupBuffer[Produced], RunFolder]:
    recipe = _recipe()
    run = RunFolder.create(recipe, tmp_path / "run", [])
    buffer: GroupBuffer[Produced] = GroupBuffer(recipe.groups_per_step, recipe.max_staleness, groups_wanted)
    order = IssueOrder(PromptSource(PROMPTS, 0), {p.prompt_id: p for p in PROMPTS}, left_open)
    return Producer(rollouts, run, order, buffer, incarnation=0), buffer, run


async def test_each_prompt_of_an_epoch_is_issued_once(tmp_path: Path) -> None:
    rollouts = FakeRollouts(lambda order, _: _summary(order))
    producer, buffer, run = _setup(tmp_path, rollouts)
    async with producing(producer):
        for version in range(1, 6):
            await buffer.pushed(await buffer.take(), version)
        await buffer.take()
    first_epoch = [order.prompt.prompt_id for order in rollouts.orders[:5]]
    assert sorted(first_epoch) == [p.prompt_id for p in PROMPTS]
    assert run.ledger.audit()["prompts_issued"] == len(rollouts.orders)


async def test_what_a_checkpoint_left_open_comes_first_and_then_the_cursor(tmp_path: Path) -> None:
    rollouts = FakeRollouts(lambda order, _: _summary(order))
    producer, buffer, _ = _setup(tmp_path, rollouts, (Issue(7, "p3", 1),))
    async with producing(producer):
        await buffer.take()
    assert rollouts.orders[0].prompt.prompt_id == "p3"
    assert rollouts.orders[0].epoch == 1
    assert rollouts.orders[1].group_id.startswith("000000000")


async def test_a_failed_attempt_is_made_again_and_a_lasting_failure_is_a_counted_drop(tmp_path: Path) -> None:
    def answer(order: GroupOrder, attempt: int) -> GroupSummary:
        if order.prompt.prompt_id == "p0":
            raise RolloutError("engine_error", "always")
        if order.prompt.prompt_id == "p1" and attempt == 1:
            raise RolloutError("deadline", "once")
        return _summary(order)

    rollouts = FakeRollouts(answer)
    producer, buffer, run = _setup(tmp_path, rollouts)
    async with producing(producer):
        for version in range(1, 3):
            await buffer.pushed(await buffer.take(), version)
    attempts = [order.prompt.prompt_id for order in rollouts.orders]
    assert attempts.count("p0") == ATTEMPTS
    assert attempts.count("p1") == 2
    assert run.ledger.drops_by_cause() == {"engine_error": 1}
    assert producer.drain_drops() == {"engine_error": 1}


async def test_a_prompt_that_is_itself_to_blame_is_not_tried_again(tmp_path: Path) -> None:
    def answer(order: GroupOrder, attempt: int) -> GroupSummary:
        if order.prompt.prompt_id == "p0":
            raise RolloutError("image", "missing")
        return _summary(order)

    rollouts = FakeRollouts(answer)
    producer, buffer, run = _setup(tmp_path, rollouts)
    async with producing(producer):
        for version in range(1, 3):
            await buffer.pushed(await buffer.take(), version)
    assert [o.prompt.prompt_id for o in rollouts.orders].count("p0") == 1
    assert run.ledger.drops_by_cause() == {"image": 1}


async def test_a_group_with_fewer_than_two_scores_is_dropped_and_no_number_takes_their_place(tmp_path: Path) -> None:
    def answer(order: GroupOrder, _: int) -> GroupSummary:
        return _summary(order, (0.5, None) if order.prompt.prompt_id == "p2" else (0.0, 1.0))

    producer, buffer, run = _setup(tmp_path, FakeRollouts(answer))
    async with producing(producer):
        for version in range(1, 3):
            await buffer.pushed(await buffer.take(), version)
    assert run.ledger.drops_by_cause() == {"too_few_scores": 1}


async def test_too_many_drops_stop_the_run_with_their_cause(tmp_path: Path) -> None:
    def answer(order: GroupOrder, _: int) -> GroupSummary:
        raise RolloutError("image", "missing")

    producer, buffer, _ = _setup(tmp_path, FakeRollouts(answer))
    async with producing(producer):
        with pytest.raises(TooManyDrops, match="for image"):
            await buffer.take()


async def test_a_reward_outage_past_its_deadline_ends_the_run_and_leaves_the_groups_open(tmp_path: Path) -> None:
    def answer(order: GroupOrder, _: int) -> GroupSummary:
        raise RewardError("unreachable", "for 120 s")

    producer, buffer, run = _setup(tmp_path, FakeRollouts(answer))
    async with producing(producer):
        with pytest.raises(RewardError):
            await buffer.take()
    assert run.ledger.audit()["dropped_by_cause"] == {}
    assert run.ledger.open_issues(step=0)


async def test_a_group_that_the_service_refuses_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    def answer(order: GroupOrder, _: int) -> GroupSummary:
        if order.prompt.prompt_id == "p0":
            raise RewardError("too_large", "a text of 60000 characters")
        return _summary(order)

    producer, buffer, run = _setup(tmp_path, FakeRollouts(answer))
    async with producing(producer):
        for version in range(1, 3):
            await buffer.pushed(await buffer.take(), version)
    assert run.ledger.drops_by_cause() == {"reward_too_large": 1}


async def test_nothing_is_issued_that_the_run_will_not_train_on(tmp_path: Path) -> None:
    rollouts = FakeRollouts(lambda order, _: _summary(order))
    producer, buffer, run = _setup(tmp_path, rollouts, groups_wanted=4)
    async with producing(producer):
        for version in range(1, 3):
            taken = await buffer.take()
            run.ledger.trained(version, 0, version, [b.group.summary.group_id for b in taken])
            await buffer.pushed(taken, version)
        await asyncio.sleep(0.01)
    audit = run.ledger.audit()
    assert (audit["prompts_issued"], audit["trained"], audit["in_flight"]) == (4, 4, 0)


def test_a_place_is_in_the_ledger_before_anything_can_be_awaited(tmp_path: Path) -> None:
    """A checkpoint between the issue of a prompt and the first step of its task must not lose it."""

    class NeverStarted:
        async def produce(self, order: GroupOrder) -> tuple[GroupSummary, object]:
            await asyncio.sleep(3600)
            raise AssertionError

    async def run_briefly() -> None:
        producer, _, run = _setup(tmp_path, NeverStarted())  # type: ignore[arg-type]
        async with producing(producer):
            for _ in range(20):
                await asyncio.sleep(0)
                issued = run.ledger.audit()["prompts_issued"]
                assert issued == producer._order.cursor()["cursor"]

    asyncio.run(run_briefly())


def test_a_groups_seed_depends_on_run_prompt_and_epoch_only() -> None:
    assert group_seed(1, "p", 0) == group_seed(1, "p", 0)
    assert len({group_seed(1, "p", 0), group_seed(2, "p", 0), group_seed(1, "q", 0), group_seed(1, "p", 1)}) == 4
