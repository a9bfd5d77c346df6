"""WorkerPool: the scoring processes of one tier, their queues and batches.

Role: merges the items of concurrent requests into batches, keeps a reference's items with the worker that knows it, and
outlives its workers: a batch whose process dies is tried once more, an item at a time, on a fresh process.
Input: a Slice. Output: an Answer that fills; one that is given up leaves the queues.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from rewards.answer import Answer
from rewards.metrics import ServiceMetrics
from rewards.scoring import Outcome, Slice
from rewards.wire import ScorerState
from rewards.worker import item_json
from rewards.worker_messages import BatchReply, ItemJson, Start
from rewards.worker_process import WorkerDiedError, WorkerProcess
from rewards.worker_queue import Ticket, WorkerQueue
from schemas.group import ScoreError

_LONGEST_PAUSE_S = 30.0  # between two starts that fail
_FIRST_PAUSE_S = 0.5
_IDLE_CHECK_S = 1.0  # how soon the death of an idle worker is noticed

_log = logging.getLogger(__name__)


class WorkerPool:
    """The workers of one tier. ``start`` and ``close`` bracket its life, both on the event loop.

    Args:
        name: of the tier, for logs.
        message: what each worker is started with.
        workers: processes.
        threads: of numeric libraries per worker.
        batch_items: most items of a batch.
        batch_wait_s: longest wait of an idle worker for more items.
        batch_deadline_s: a batch that takes longer ends its process, as a crash would.
        on_states: told the scorers' states whenever a worker has loaded them, or failed to.
    """

    def __init__(
        self,
        name: str,
        message: Start,
        metrics: ServiceMetrics,
        *,
        workers: int,
        threads: int,
        batch_items: int,
        batch_wait_s: float,
        batch_deadline_s: float,
        on_states: Callable[[Mapping[str, ScorerState]], None],
    ) -> None:
        self.name = name
        self._message = message
        self._metrics = metrics
        self._threads = threads
        self._batch_items = batch_items
        self._batch_wait_s = batch_wait_s
        self._batch_deadline_s = batch_deadline_s
        self._on_states = on_states
        self._queues = [WorkerQueue() for _ in range(workers)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to start the workers; each serves its queue from then on."""
        self._tasks = [asyncio.create_task(self._serve(queue)) for queue in self._queues]

    async def close(self) -> None:
        """Ends the workers; what is still queued is abandoned."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        processes = [queue.process for queue in self._queues if queue.process is not None]
        await asyncio.gather(*(process.close() for process in processes))

    @property
    def items(self) -> int:
        """Items waiting or being scored."""
        return sum(queue.items for queue in self._queues)

    @property
    def drain_s(self) -> float:
        """Seconds until what is queued now is scored, at the speed of the last batches."""
        return max(queue.items * queue.seconds_per_item for queue in self._queues)

    @property
    def pids(self) -> list[int]:
        """The processes that serve now."""
        return [queue.process.pid for queue in self._queues if queue.process is not None]

    def submit(self, part: Slice) -> Answer:
        """Queues a slice; its results are in the order of its items."""
        answer = Answer(len(part.items))
        home_of: dict[int, int] = {}  # a request's equal references are one object
        homes: dict[int, list[int]] = {}
        for index, names in enumerate(part.names):
            if not names:
                answer.put(index, ItemJson(b"", b""))
                continue
            reference = part.items[index].reference
            home = home_of.get(id(reference))
            if home is None:
                home = home_of[id(reference)] = hash(reference) % len(self._queues)
            homes.setdefault(home, []).append(index)
        for home, chosen in homes.items():
            for start in range(0, len(chosen), self._batch_items):
                places = chosen[start : start + self._batch_items]
                self._put(home, Ticket(answer, places, part.part(places)))
        answer.done.add_done_callback(lambda _: self._purge(answer))
        return answer

    def _put(self, home: int, ticket: Ticket) -> None:
        """To the queue that knows the reference, unless it is a batch behind the shortest one, or has no worker."""
        serving = [queue for queue in self._queues if queue.process is not None]
        shortest = min(serving or self._queues, key=lambda queue: queue.items)
        at_home = self._queues[home]
        known = at_home.process is not None or not serving
        near = at_home.items < shortest.items + self._batch_items
        (at_home if known and near else shortest).put(ticket)

    def _purge(self, answer: Answer) -> None:
        if answer.abandoned:
            for queue in self._queues:
                queue.purge(answer)

    async def _serve(self, queue: WorkerQueue) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                process = await WorkerProcess.start(self._message, self._threads)
            except WorkerDiedError:
                remedy = "its process ends while loading; see the service's log"
                self._tell(queue, dict.fromkeys(self._message.names, ScorerState(state="failed", remedy=remedy)))
            else:
                worked_before = queue.states is not None
                self._tell(queue, process.states)
                if any(state.state == "ready" for state in process.states.values()):
                    pause = _FIRST_PAUSE_S
                    await self._serve_with(queue, process)
                    continue
                await process.close()
                if not worked_before:
                    return  # nothing can be asked of it, and a further try would find the same
            self._hand_over(queue)
            _log.error("a %s scorer process could not load its scorers; next try in %.1f s", self.name, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _tell(self, queue: WorkerQueue, states: Mapping[str, ScorerState]) -> None:
        """A scorer is ready while any worker has it."""
        queue.states = states
        merged: dict[str, ScorerState] = {}
        for other in self._queues:
            for name, state in (other.states or {}).items():
                if name not in merged or state.state == "ready":
                    merged[name] = state
        self._on_states(merged)

    def _hand_over(self, queue: WorkerQueue) -> None:
        """What waits for a worker that can't be had goes to one that works, where there is one."""
        if any(other.process is not None for other in self._queues):
            for ticket in queue.take_all():
                self._put(self._queues.index(queue), ticket)

    async def _serve_with(self, queue: WorkerQueue, process: WorkerProcess) -> None:
        """Scores batch after batch until the process is gone. Cancelled, it leaves the process to ``close``."""
        queue.process = process
        while not process.gone():
            if not await queue.wait_for_items(_IDLE_CHECK_S):
                continue
            if self._batch_wait_s and queue.items < self._batch_items:
                await asyncio.sleep(self._batch_wait_s)
            if process.gone():  # in the meantime: the batch is for the next process
                break
            batch = queue.next_batch(self._batch_items)
            if batch and not await self._score(queue, process, batch):
                break
        queue.process = None
        process.kill()

    async def _score(self, queue: WorkerQueue, process: WorkerProcess, batch: Sequence[Ticket]) -> bool:
        """Whether the process is still there."""
        started = time.monotonic()
        try:
            reply = await asyncio.wait_for(process.score([ticket.part for ticket in batch]), self._batch_deadline_s)
            self._deliver(queue, batch, reply, time.monotonic() - started)
        except Exception as error:  # noqa: BLE001 - whatever happened to a batch, its items must not wait for ever
            how = "hung" if isinstance(error, TimeoutError) else "crashed"
            if not isinstance(error, (WorkerDiedError, TimeoutError)):
                _log.error("a batch of the %s scorers failed: %s", self.name, type(error).__name__)
            self._after_death(queue, batch, how)
            return False
        return True

    def _deliver(self, queue: WorkerQueue, batch: Sequence[Ticket], reply: BatchReply, seconds: float) -> None:
        count = sum(len(ticket.indexes) for ticket in batch)
        queue.observe(seconds, count)
        self._metrics.count_batch(self.name, count, reply)
        for ticket, results in zip(batch, reply.results, strict=True):
            self._metrics.queue_seconds.observe(time.monotonic() - ticket.queued_at)
            queue.finish(ticket, results)

    def _after_death(self, queue: WorkerQueue, batch: Sequence[Ticket], how: str) -> None:
        """Tries each item of the batch alone; the one that was alone already gets an error."""
        _log.warning("a scorer process of the tier %s %s with %d requests' items", self.name, how, len(batch))
        self._metrics.count_worker_death(self.name)
        for ticket in batch:
            if ticket.alone:
                queue.finish(ticket, [self._lost(names, how) for names in ticket.part.names])
                continue
            queue.drop(ticket)
            if ticket.answer.abandoned:
                continue
            for place, index in enumerate(ticket.indexes):
                queue.put(Ticket(ticket.answer, [index], ticket.part.part([place]), alone=True))

    def _lost(self, names: Sequence[str], how: str) -> ItemJson:
        error = ScoreError(code="worker_died", message=f"the scorer process {how} twice while it scored this item")
        self._metrics.count_failures({(name, error.code): 1 for name in names})
        return item_json(Outcome(errors=dict.fromkeys(names, error)))
