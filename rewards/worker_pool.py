"""WorkerPool: the scoring processes of one tier, their queues and batches.

Role: merges the items of concurrent requests into batches, keeps a reference's items with the worker that knows it, and
outlives its workers: a batch whose process dies is tried once more, an item at a time, on a fresh process.
Input: a Slice. Output: a future with one ItemJson an item; cancelled futures leave the queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rewards.metrics import ServiceMetrics
from rewards.scoring import Outcome, Slice
from rewards.wire import ScorerState
from rewards.worker import item_json
from rewards.worker_messages import BatchReply, ItemJson, Start
from rewards.worker_process import WorkerDiedError, WorkerProcess
from schemas.group import ScoreError

_LONGEST_PAUSE_S = 30.0  # between two starts that fail
_FIRST_PAUSE_S = 0.5

_log = logging.getLogger(__name__)


class _Answer:
    """A slice's results as they come in, from one batch or several."""

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[list[ItemJson]] = asyncio.get_running_loop().create_future()
        self._results: list[ItemJson | None] = [None] * count
        self._left = count

    def put(self, index: int, result: ItemJson) -> None:
        self._results[index] = result
        self._left -= 1
        if self._left == 0 and not self.future.done():
            self.future.set_result([result for result in self._results if result is not None])


@dataclass(slots=True)
class _Ticket:
    """A part of a slice in a queue; ``alone`` after it was in a batch whose process died."""

    answer: _Answer
    indexes: Sequence[int]  # in the answer
    part: Slice
    alone: bool = False
    queued_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Queue:
    tickets: deque[_Ticket] = field(default_factory=deque)
    items: int = 0  # waiting or being scored
    filled: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, ticket: _Ticket) -> None:
        self.tickets.append(ticket)
        self.items += len(ticket.indexes)
        self.filled.set()


class WorkerPool:
    """The workers of one tier. ``start`` and ``close`` bracket its life, both on the event loop.

    Args:
        name: of the tier, for logs.
        message: what each worker is started with.
        workers: processes.
        threads: of numeric libraries per worker; None leaves it to them.
        batch_items: most items of a batch.
        batch_wait_s: longest wait of an idle worker for more items.
        batch_deadline_s: a batch that takes longer ends its process, as a crash would.
        on_started: told the scorers' states by every worker that has loaded them.
    """

    def __init__(
        self,
        name: str,
        message: Start,
        metrics: ServiceMetrics,
        *,
        workers: int,
        threads: int | None,
        batch_items: int,
        batch_wait_s: float,
        batch_deadline_s: float,
        on_started: Callable[[Mapping[str, ScorerState]], None],
    ) -> None:
        self.name = name
        self._message = message
        self._metrics = metrics
        self._threads = threads
        self._batch_items = batch_items
        self._batch_wait_s = batch_wait_s
        self._batch_deadline_s = batch_deadline_s
        self._on_started = on_started
        self._queues = [_Queue() for _ in range(workers)]
        self._processes: dict[int, WorkerProcess] = {}  # by queue
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to start the workers; each serves its queue from then on."""
        self._tasks = [asyncio.create_task(self._serve(number)) for number in range(len(self._queues))]

    async def close(self) -> None:
        """Ends the workers; what is still queued is abandoned."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(process.close() for process in self._processes.values()))
        self._processes.clear()

    @property
    def items(self) -> int:
        """Items waiting or being scored."""
        return sum(queue.items for queue in self._queues)

    @property
    def pids(self) -> list[int]:
        """The processes that serve now."""
        return [process.pid for process in self._processes.values()]

    def submit(self, part: Slice) -> asyncio.Future[list[ItemJson]]:
        """Queues a slice. The future's results are in the order of its items."""
        answer = _Answer(len(part.items))
        home_of: dict[int, int] = {}  # a request's equal references are one object
        homes: dict[int, list[int]] = {}
        for index, item in enumerate(part.items):
            home = home_of.get(id(item.reference))
            if home is None:
                home = home_of[id(item.reference)] = hash(item.reference) % len(self._queues)
            homes.setdefault(home, []).append(index)
        for home, indexes in homes.items():
            for start in range(0, len(indexes), self._batch_items):
                chosen = indexes[start : start + self._batch_items]
                self._least_loaded(home).put(_Ticket(answer, chosen, part.part(chosen)))
        return answer.future

    def _least_loaded(self, home: int) -> _Queue:
        """The queue that knows the reference, unless it is a batch behind the shortest one."""
        shortest = min(self._queues, key=lambda queue: queue.items)
        at_home = self._queues[home]
        return at_home if at_home.items < shortest.items + self._batch_items else shortest

    async def _serve(self, number: int) -> None:
        queue = self._queues[number]
        while True:
            process = self._processes[number] = await self._started()
            if not any(state.state == "ready" for state in process.states.values()):
                # Nothing will be asked of it.
                del self._processes[number]
                await process.close()
                return
            while True:
                batch = await self._next_batch(queue)
                if not batch:
                    continue
                try:
                    reply = await asyncio.wait_for(
                        process.score([ticket.part for ticket in batch]), self._batch_deadline_s
                    )
                except (WorkerDiedError, TimeoutError) as error:
                    del self._processes[number]
                    process.kill()
                    self._after_death(queue, batch, "crashed" if isinstance(error, WorkerDiedError) else "hung")
                    break
                self._deliver(queue, batch, reply)

    async def _started(self) -> WorkerProcess:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                process = await WorkerProcess.start(self._message, self._threads)
            except WorkerDiedError:
                _log.error("a %s scorer process ended while loading; next try in %.1f s", self.name, pause)
                remedy = "its process ends while loading; see the service's log"
                self._on_started({name: ScorerState(state="failed", remedy=remedy) for name in self._message.names})
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._on_started(process.states)
                return process

    async def _next_batch(self, queue: _Queue) -> list[_Ticket]:
        """What is scored next; waits for something, then a moment for more."""
        await queue.filled.wait()
        if self._batch_wait_s and queue.items < self._batch_items:
            await asyncio.sleep(self._batch_wait_s)
        batch: list[_Ticket] = []
        room = self._batch_items
        while queue.tickets:
            ticket = queue.tickets[0]
            count = len(ticket.indexes)
            if ticket.answer.future.cancelled():
                queue.tickets.popleft()
                queue.items -= count
                continue
            if batch and (count > room or ticket.alone):
                break
            batch.append(queue.tickets.popleft())
            room -= count
            if ticket.alone:
                break
        if not queue.tickets:
            queue.filled.clear()
        return batch

    def _deliver(self, queue: _Queue, batch: Sequence[_Ticket], reply: BatchReply) -> None:
        self._metrics.count_batch(self.name, sum(len(ticket.indexes) for ticket in batch), reply)
        for ticket, results in zip(batch, reply.results, strict=True):
            self._metrics.queue_seconds.observe(time.monotonic() - ticket.queued_at)
            self._finish(queue, ticket, results)

    def _finish(self, queue: _Queue, ticket: _Ticket, results: Sequence[ItemJson]) -> None:
        queue.items -= len(ticket.indexes)
        for index, result in zip(ticket.indexes, results, strict=True):
            ticket.answer.put(index, result)

    def _after_death(self, queue: _Queue, batch: Sequence[_Ticket], how: str) -> None:
        """Tries each item of the batch alone; the one that was alone already gets an error."""
        _log.warning("a %s scorer process %s with %d requests' items", self.name, how, len(batch))
        self._metrics.count_worker_death(self.name)
        for ticket in batch:
            if ticket.alone:
                self._finish(queue, ticket, [self._lost(names, how) for names in ticket.part.names])
                continue
            queue.items -= len(ticket.indexes)
            for place, index in enumerate(ticket.indexes):
                queue.put(_Ticket(ticket.answer, [index], ticket.part.part([place]), alone=True))

    def _lost(self, names: Sequence[str], how: str) -> ItemJson:
        error = ScoreError(code="worker_died", message=f"the scorer process {how} twice while it scored this item")
        self._metrics.count_failures(Counter({(name, error.code): 1 for name in names}))
        return item_json(Outcome(errors=dict.fromkeys(names, error)))
