"""Waits with a deadline that follows what was measured (promise 11).

Role: wrap every await on another process, so that none can hang without a word.
Input: what is awaited, from whom. Output: its value, or DeadlineError naming what, whom, since when and what then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from schemas.errors import DeadlineError

T = TypeVar("T")

# A wait may last this many times the longest one of its kind so far, and never less than its floor.
SLACK = 10.0


class Waits:
    """Measured durations by kind of wait, and the deadlines that follow from them.

    Args:
        floors: seconds that a wait of each kind is always given, before anything was measured.
        scale: multiplies every floor (slow machines, tests of the deadline itself).
    """

    def __init__(self, floors: dict[str, float], scale: float = 1.0) -> None:
        self._floors = {kind: floor * scale for kind, floor in floors.items()}
        self._longest: dict[str, float] = {}

    def limit(self, kind: str) -> float:
        """Seconds that the next wait of this kind may last."""
        return max(self._floors[kind], SLACK * self._longest.get(kind, 0.0))

    async def wait(self, kind: str, on_whom: str, then: str, awaitable: Awaitable[T]) -> T:
        """Await with this kind's deadline, and remember how long it took.

        Raises:
            DeadlineError: the deadline passed.
        """
        limit = self.limit(kind)
        started = time.monotonic()
        task = asyncio.ensure_future(awaitable)
        try:
            # Not wait_for: it would turn a TimeoutError raised inside the awaitable into one of its own.
            done, _ = await asyncio.wait({task}, timeout=limit)
        finally:
            task.cancel()  # without effect on one that is done
        if not done:
            raise DeadlineError(kind, on_whom, time.monotonic() - started, then)
        value = task.result()
        self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - started)
        return value
