"""RequestMerger: groups that wait for a connection go out together.

Role: keeps few requests in flight; what is asked meanwhile is merged into the next ones. So a thousand groups at once
cost a few requests, and a single group waits for nobody.
Input: ScoreRequests. Output: each one's own ScoreResponse; a request that the service refuses costs only itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rewards.wire import ScoreRequest, ScoreResponse
from schemas.errors import RewardError

_MERGED_ITEMS = 256  # a service's batch; well below what one accepts
# What the service says about a request's content: of merged ones, only one may be to blame.
_REFUSED = ("bad_request", "too_large")


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request and who waits for it; ``alone`` after the service refused it together with others."""

    request: ScoreRequest
    future: asyncio.Future[ScoreResponse]
    alone: bool = False

    def fits(self, first: ScoreRequest) -> bool:
        """Whether it can go out together with ``first``."""
        mine = (self.request.scorers, self.request.params, self.request.deadline_s)
        return not self.alone and mine == (first.scorers, first.params, first.deadline_s)


def _abandon(task: asyncio.Task[None], batch: Sequence[_Waiting], _: object) -> None:
    """Nobody waits any more: the request is given up, and the service told so by the closed connection."""
    if all(waiting.future.cancelled() for waiting in batch):
        task.cancel()


class RequestMerger:
    """Sends requests, at most ``slots`` at a time.

    Args:
        send: one request to the service; raises RewardError.
    """

    def __init__(self, send: Callable[[ScoreRequest], Awaitable[ScoreResponse]], slots: int) -> None:
        self._send = send
        self._free = slots
        self._most_items = _MERGED_ITEMS
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """The request's reply. Raises RewardError as ``send`` does."""
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._start()
        return await waiting.future

    async def close(self) -> None:
        """Ends what is under way; whoever waits is cancelled."""
        self._closed = True
        for waiting in self._waiting:
            waiting.future.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        while not self._closed and self._free and (batch := self._next_batch()):
            self._free -= 1
            task = asyncio.create_task(self._send_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, batch))
            for waiting in batch:
                waiting.future.add_done_callback(partial(_abandon, task, batch))

    def _ended(self, batch: Sequence[_Waiting], task: asyncio.Task[None]) -> None:
        # Here, not in the task: one that is cancelled before its first step runs none of its own code.
        if task.cancelled():
            for waiting in batch:
                waiting.future.cancel()
        self._tasks.discard(task)
        self._free += 1
        self._start()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        items = 0
        while self._waiting:
            waiting = self._waiting[0]
            if waiting.future.done():  # cancelled, e.g. by its deadline
                self._waiting.popleft()
                continue
            items += len(waiting.request.items)
            if batch and (items > self._most_items or not waiting.fits(batch[0].request)):
                break
            batch.append(self._waiting.popleft())
            if waiting.alone:
                break
        return batch

    async def _send_batch(self, batch: Sequence[_Waiting]) -> None:
        merged = batch[0].request
        if len(batch) > 1:
            items = tuple(item for waiting in batch for item in waiting.request.items)
            merged = merged.model_copy(update={"items": items})
        try:
            response = await self._send(merged)
        except Exception as error:  # noqa: BLE001 - handed on to whoever asked
            self._refused(batch, error)
            return
        start = 0
        for waiting in batch:
            end = start + len(waiting.request.items)
            if not waiting.future.done():
                part = ScoreResponse(results=response.results[start:end], versions=response.versions)
                waiting.future.set_result(part)
            start = end

    def _refused(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Of merged requests only one may be to blame: each is asked again by itself."""
        if len(batch) > 1 and isinstance(error, RewardError) and error.code in _REFUSED:
            if error.code == "too_large":
                self._most_items = max(1, self._most_items // 2)  # this service takes less at once
            for waiting in reversed(batch):
                waiting.alone = True
                self._waiting.appendleft(waiting)
            return
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)
