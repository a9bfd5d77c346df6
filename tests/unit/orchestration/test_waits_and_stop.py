from __future__ import annotations

import asyncio
import os
import signal

import pytest

from orchestration.stop import StopRequest
from orchestration.waits import SLACK, Waits
from schemas.errors import DeadlineError


async def _after(seconds: float, value: int = 1) -> int:
    await asyncio.sleep(seconds)
    return value


async def test_a_wait_that_ends_names_what_whom_and_what_then() -> None:
    waits = Waits({"push": 0.05})
    with pytest.raises(DeadlineError) as error:
        await waits.wait("push", "rollout-0", "the run stops", _after(10))
    assert error.value.waited_s >= 0.05
    assert all(part in str(error.value) for part in ("push", "rollout-0", "the run stops"))


async def test_the_deadline_follows_what_was_measured() -> None:
    waits = Waits({"push": 0.2})
    await waits.wait("push", "w", "x", _after(0.1))
    assert waits.limit("push") >= SLACK * 0.1


async def test_a_time_out_of_the_awaited_is_its_own_error() -> None:
    async def fails() -> None:
        raise TimeoutError("inner")

    with pytest.raises(TimeoutError, match="inner"):
        await Waits({"push": 5}).wait("push", "w", "x", fails())


async def test_a_signal_ends_the_wait_and_not_the_work_that_is_done() -> None:
    stop = StopRequest()
    with stop.on_signals():
        assert await stop.first(_after(0, 5)) == 5
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        assert await stop.first(_after(60)) is None
    assert stop.requested
    assert stop.signal_name == "SIGTERM"
