"""RequestMerger: groups that wait for a connection go out together.

Role: keeps few requests in flight; what is asked meanwhile is merged into the next ones. So a thousand groups at once
cost a few requests, and a single group waits for nobody.
Input: ScoreRequests. Output: each one's own ScoreResponse; a request that the service refuses costs only itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from rewards.wire import ScoreRequest, ScoreResponse
from schemas.errors import RewardError

_MERGED_ITEMS = 256  # a service's batch; well below what one accepts
# What the service says about a request's content: of merged ones, only one may be to blame.
_REFUSED = ("bad_request", "too_large")

_Waiting = tuple[ScoreRequest, "asyncio.Future[ScoreResponse]"]


def _mergeable(first: ScoreRequest, second: ScoreRequest) -> bool:
    return (first.scorers, first.params, first.deadline_s) == (second.scorers, second.params, second.deadline_s)


def _abandon(task: asyncio.Task[None], batch: Sequence[_Waiting], _: object) -> None:
    """Nobody waits any more: the request is given up, and the service told so by the closed connection."""
    if all(future.cancelled() for _, future in batch):
        task.cancel()


class RequestMerger:
    """Sends requests, at most ``slots`` at a time.

    Args:
        send: one request to the service; raises RewardError.
    """

    def __init__(self, send: Callable[[ScoreRequest], Awaitable[ScoreResponse]], slots: int) -> None:
        self._send = send
        self._free = slots
        self._waiting: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """The request's reply. Raises RewardError as ``send`` does."""
        future: asyncio.Future[ScoreResponse] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._start()
        return await future

    async def close(self) -> None:
        """Ends what is under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        while self._free and (batch := self._next_batch()):
            self._free -= 1
            task = asyncio.create_task(self._send_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            for _, future in batch:
                future.add_done_callback(partial(_abandon, task, batch))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        self._start()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        items = 0
        while self._waiting:
            request, future = self._waiting[0]
            if future.done():  # cancelled, e.g. by its deadline
                self._waiting.popleft()
                continue
            items += len(request.items)
            if batch and (items > _MERGED_ITEMS or not _mergeable(batch[0][0], request)):
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send_batch(self, batch: Sequence[_Waiting]) -> None:
        merged = batch[0][0]
        if len(batch) > 1:
            items = tuple(item for request, _ in batch for item in request.items)
            merged = merged.model_copy(update={"items": items})
        try:
            response = await self._send(merged)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed on to whoever asked
            if len(batch) > 1 and isinstance(error, RewardError) and error.code in _REFUSED:
                for waiting in batch:
                    await self._send_batch([waiting])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for request, future in batch:
            end = start + len(request.items)
            if not future.done():
                future.set_result(ScoreResponse(results=response.results[start:end], versions=response.versions))
            start = end
