"""The reward service that a run starts for itself: it comes back, outlives its driver's signals, and no driver."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from rewards_server import READY_S, REPOSITORY

from orchestration.service import must_answer, reward_access
from rewards.settings import RewardServiceSettings

pytestmark = pytest.mark.integration

SETTINGS = RewardServiceSettings()
_DRIVER = """
import asyncio, sys
from pathlib import Path
from orchestration.service import reward_access
from rewards.settings import RewardServiceSettings

async def drive():
    async with reward_access(RewardServiceSettings(), Path(sys.argv[1]), lambda kind, **fields: print(fields["pid"])):
        sys.stdout.flush()
        await asyncio.sleep(600)

asyncio.run(drive())
"""


class Events:
    """What a run would write to events.jsonl."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.seen.append((kind, fields))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.seen]

    async def wait_for(self, kind: str) -> dict[str, Any]:
        await _until(lambda: kind in self.kinds())
        return next(fields for seen, fields in self.seen if seen == kind)


async def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def _take(port: int) -> socket.socket:
    """Listen where a killed service listened, as soon as the kernel has taken its socket away."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_a_killed_service_answers_again_at_the_same_address(tmp_path: Path) -> None:
    events = Events()
    async with reward_access(SETTINGS, tmp_path, events) as access:
        started = await events.wait_for("reward_service_started")
        os.kill(started["pid"], signal.SIGKILL)
        restarted = await events.wait_for("reward_service_restarted")
        assert restarted["pid"] != started["pid"]
        assert access.addresses == (started["address"],)
        await must_answer(access, SETTINGS)
    assert _gone(restarted["pid"])
    assert "reward_service_failed" not in events.kinds()


async def test_a_restart_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    events = Events()
    async with reward_access(SETTINGS, tmp_path, events) as access:
        started = await events.wait_for("reward_service_started")
        os.kill(started["pid"], signal.SIGKILL)
        with await _take(int(started["address"].rsplit(":", 1)[1])):
            failed = await events.wait_for("reward_service_failed")
        assert "rewards.log" in failed["cause"]
        await events.wait_for("reward_service_restarted")
        await must_answer(access, SETTINGS)


async def test_signals_from_strangers_do_not_end_it_and_the_run_does(tmp_path: Path) -> None:
    events = Events()
    async with reward_access(SETTINGS, tmp_path, events) as access:
        pid = (await events.wait_for("reward_service_started"))["pid"]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
            await must_answer(access, SETTINGS)
        log = tmp_path / "logs" / "rewards.log"
        await _until(lambda: "SIGTERM ignored" in log.read_text() and "SIGINT ignored" in log.read_text())
        assert not _gone(pid)
    assert _gone(pid)
    assert events.kinds() == ["reward_service_started"]


def test_it_dies_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    with driver.stdout:
        pid = int(driver.stdout.readline())
    assert not _gone(pid)
    driver.kill()
    driver.wait()
    asyncio.run(_until(lambda: _gone(pid)))
