"""Answer: a slice's results as they come in, from several batches or judgements.

Role: what a worker pool and the judges fill, and what a request waits for; at its deadline it keeps what is there.
Input: one ItemJson an item, in any order. Output: all of them in the slice's order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rewards.worker_messages import ItemJson


class Answer:
    """The results of so many items; ``done`` once all are there. Giving it up tells whoever still works on it."""

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._results: list[ItemJson | None] = [None] * count
        self._left = count
        if not count:
            self.done.set_result(None)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return self.done.cancelled()

    def put(self, index: int, result: ItemJson) -> None:
        """An item's result."""
        self._results[index] = result
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)

    def give_up(self) -> None:
        """Nobody waits any more."""
        self.done.cancel()

    def results(self, missing: Callable[[int], ItemJson]) -> list[ItemJson]:
        """One result an item; ``missing`` makes those that are not there, by index."""
        return [missing(index) if result is None else result for index, result in enumerate(self._results)]
