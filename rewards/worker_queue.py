"""WorkerQueue: what one worker process has to score.

Role: the tickets of one worker, in order; counts what waits and what is being scored, and how fast it goes.
Input: Tickets (parts of slices). Output: batches of them; results that go into their Answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rewards.answer import Answer
from rewards.scoring import Slice
from rewards.wire import ScorerState
from rewards.worker_messages import ItemJson
from rewards.worker_process import WorkerProcess

_MEMORY = 0.8  # weight of the earlier batches in the speed


@dataclass(slots=True, eq=False)
class Ticket:
    """A part of a slice in a queue; ``alone`` after it was in a batch whose process died."""

    answer: Answer
    indexes: Sequence[int]  # in the answer
    part: Slice
    alone: bool = False
    queued_at: float = field(default_factory=time.monotonic)


class WorkerQueue:
    """The queue of one worker.

    Attributes:
        items: waiting or being scored.
        process: the worker, while it serves.
        states: of the worker's scorers, as of its last start; None before the first.
        seconds_per_item: of the last batches.
    """

    def __init__(self) -> None:
        self.items = 0
        self.process: WorkerProcess | None = None
        self.states: Mapping[str, ScorerState] | None = None
        self.seconds_per_item = 0.0
        self._tickets: deque[Ticket] = deque()
        self._filled = asyncio.Event()

    def put(self, ticket: Ticket) -> None:
        """Queues a ticket."""
        self._tickets.append(ticket)
        self.items += len(ticket.indexes)
        self._filled.set()

    def take_all(self) -> list[Ticket]:
        """Everything that waits; it is not this queue's any more."""
        taken = list(self._tickets)
        self._tickets.clear()
        self._filled.clear()
        self.items -= sum(len(ticket.indexes) for ticket in taken)
        return taken

    def purge(self, answer: Answer) -> None:
        """Forgets what waits for an answer that nobody wants any more."""
        for ticket in self.take_all():
            if ticket.answer is not answer:
                self.put(ticket)

    async def wait_for_items(self, longest_s: float) -> bool:
        """Whether something came within ``longest_s`` seconds."""
        if not self._filled.is_set():
            try:
                await asyncio.wait_for(self._filled.wait(), longest_s)
            except TimeoutError:
                return False
        return True

    def next_batch(self, most_items: int) -> list[Ticket]:
        """What is scored next: tickets in order, up to so many items; one that must be alone is."""
        batch: list[Ticket] = []
        room = most_items
        while self._tickets:
            ticket = self._tickets[0]
            if batch and (len(ticket.indexes) > room or ticket.alone):
                break
            batch.append(self._tickets.popleft())
            room -= len(ticket.indexes)
            if ticket.alone:
                break
        if not self._tickets:
            self._filled.clear()
        return batch

    def finish(self, ticket: Ticket, results: Sequence[ItemJson]) -> None:
        """A ticket's results go to whoever asked."""
        self.drop(ticket)
        for index, result in zip(ticket.indexes, results, strict=True):
            ticket.answer.put(index, result)

    def drop(self, ticket: Ticket) -> None:
        """A ticket that was being scored is not this queue's any more."""
        self.items -= len(ticket.indexes)

    def observe(self, seconds: float, items: int) -> None:
        """A batch took so long."""
        now = seconds / items
        before = self.seconds_per_item
        self.seconds_per_item = now if before == 0.0 else _MEMORY * before + (1.0 - _MEMORY) * now
