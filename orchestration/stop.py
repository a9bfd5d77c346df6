"""Stopping on SIGTERM and Ctrl-C: finish the step, write a checkpoint, exit with status 3.

Role: turn signals into something that the train loop can look at and wait for.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED = 0, 1, 2, 3


class StopRequest:
    """Set by the first signal; the second one ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.signal_name = ""

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self, signal_name: str) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.signal_name = signal_name
        self._event.set()

    async def first(self, awaitable: Awaitable[T]) -> T | None:
        """Its value, or None as soon as a stop is requested (the awaitable is then cancelled)."""
        task = asyncio.ensure_future(awaitable)
        stop = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})  # its own cleaning up comes before the caller's

    @contextmanager
    def on_signals(self) -> Iterator[StopRequest]:
        """Listen to SIGTERM and SIGINT while inside. Needs a running event loop in the main thread."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self.request, number.name)
        try:
            yield self
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
