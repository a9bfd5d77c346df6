from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.buffer import GroupBuffer


async def _soon(awaitable: object) -> bool:
    """Whether it finishes without anything else happening."""
    task = asyncio.ensure_future(awaitable)  # type: ignore[arg-type]
    for _ in range(5):
        await asyncio.sleep(0)
    done = task.done()
    if not done:
        task.cancel()
    return done


async def test_no_more_groups_in_flight_than_slots() -> None:
    buffer: GroupBuffer[int] = GroupBuffer(groups_per_step=2, max_staleness=1, groups_wanted=100)
    for _ in range(4):
        await buffer.acquire()
    assert not await _soon(buffer.acquire())


async def test_a_dropped_group_gives_its_slot_to_another_prompt() -> None:
    buffer: GroupBuffer[int] = GroupBuffer(groups_per_step=1, max_staleness=0, groups_wanted=100)
    slot = await buffer.acquire()
    await buffer.give_up(slot)
    assert await _soon(buffer.acquire())


async def test_slots_are_freed_by_the_push_and_not_by_the_take() -> None:
    buffer: GroupBuffer[int] = GroupBuffer(groups_per_step=1, max_staleness=0, groups_wanted=100)
    await buffer.add(await buffer.acquire(), 7)
    taken = await buffer.take()
    assert not await _soon(buffer.acquire())
    await buffer.pushed(taken, 1)
    assert (await buffer.acquire()).issued_version == 1


async def test_take_waits_for_a_group_that_would_be_too_old_at_the_next_step() -> None:
    buffer: GroupBuffer[str] = GroupBuffer(groups_per_step=1, max_staleness=1, groups_wanted=100)
    slow = await buffer.acquire()
    await buffer.add(await buffer.acquire(), "fast")
    # At version 0 the slow group may still wait one version.
    await buffer.pushed(await buffer.take(), 1)
    await buffer.add(await buffer.acquire(), "newer")
    assert not await _soon(buffer.take())
    await buffer.add(slow, "slow")
    assert [buffered.group for buffered in await buffer.take()] == ["slow"]


async def test_take_returns_the_oldest_version_first() -> None:
    buffer: GroupBuffer[str] = GroupBuffer(groups_per_step=1, max_staleness=1, groups_wanted=100)
    first = await buffer.acquire()
    await buffer.add(await buffer.acquire(), "a")
    await buffer.pushed(await buffer.take(), 1)
    await buffer.add(await buffer.acquire(), "issued at 1")
    await buffer.add(first, "issued at 0")
    assert [b.group for b in await buffer.take()] == ["issued at 0"]


async def test_a_failure_of_production_comes_out_of_take_after_what_is_buffered() -> None:
    buffer: GroupBuffer[str] = GroupBuffer(groups_per_step=1, max_staleness=0, groups_wanted=100)
    await buffer.add(await buffer.acquire(), "a")
    await buffer.fail(ValueError("gone"))
    assert [b.group for b in await buffer.take()] == ["a"]
    with pytest.raises(ValueError, match="gone"):
        await buffer.take()


async def test_no_more_groups_are_let_in_than_the_run_will_train_on() -> None:
    buffer: GroupBuffer[int] = GroupBuffer(groups_per_step=1, max_staleness=3, groups_wanted=2)
    dropped = await buffer.acquire()
    await buffer.acquire()
    assert not await _soon(buffer.acquire())
    await buffer.give_up(dropped)
    assert await _soon(buffer.acquire())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32), st.floats(0.0, 0.4))
def test_no_group_older_than_the_bound_is_ever_taken(size: int, staleness: int, seed: int, drop_rate: float) -> None:
    """Random completion order, drops and reissues: the bound holds, nothing is discarded, and nothing deadlocks."""

    async def run() -> None:
        rng = random.Random(seed)
        buffer: GroupBuffer[int] = GroupBuffer(size, staleness, groups_wanted=12 * size)
        produced = 0
        dropped = 0

        async def follow(slot: object) -> None:
            nonlocal produced, dropped
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            if rng.random() < drop_rate:
                dropped += 1
                await buffer.give_up(slot)  # type: ignore[arg-type]
                return
            if rng.random() < 0.2:
                await buffer.reissue(slot)  # type: ignore[arg-type]
            produced += 1
            await buffer.add(slot, slot.issued_version)  # type: ignore[attr-defined, arg-type]

        async def produce() -> None:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(follow(await buffer.acquire()))

        producer = asyncio.create_task(produce())
        trained = 0
        for version in range(12):
            taken = await asyncio.wait_for(buffer.take(), 20)
            assert len(taken) == size
            assert all(version - buffered.group <= staleness for buffered in taken)
            trained += len(taken)
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            await buffer.pushed(taken, version + 1)
        producer.cancel()
        await asyncio.wait({producer})
        # Nothing was thrown away, and nothing was made that the run does not train on.
        assert produced == trained == 12 * size

    asyncio.run(run())
