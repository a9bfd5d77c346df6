"""The producer: keeps enough groups in flight, never more than the buffer's slots allow.

    prompts.next() -> ledger.issued -> cluster.produce -> ledger.generated -> buffer.add
                                             | fails, after its retries -> ledger.dropped(cause)

A failure is data (promise 4): it is counted by cause, and too many of them in a window stop the run resumably.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from orchestration.buffer import GroupBuffer, Slot
from orchestration.groups import GroupOrder, GroupSummary, group_seed
from orchestration.ledger import Issue
from orchestration.run import RunFolder
from prompts.source import PromptSource
from schemas.errors import DeadlineError, OverreadError, RewardError, RolloutError
from schemas.group import Sampling
from schemas.prompt import Prompt

ATTEMPTS = 3
# The prompt is not to blame: another attempt, on another worker where there is one, may go well.
RETRIED_CAUSES = frozenset({"worker_died", "engine_dead", "weights_unknown", "deadline", "engine_error"})
# The service is there and refuses this group: the next one may go well. Any other code means that it is away.
BLAMED_ON_THE_GROUP = frozenset({"bad_request", "too_large", "bad_reply"})
NO_WORKER = "no_worker"  # every worker is gone: no prompt is to blame, and no attempt can go well
DROP_WINDOW = 64  # groups looked back on
DROP_LIMIT = 0.5  # share of dropped groups in a full window that stops the run
MIN_SCORED = 2  # completions with a reward; one alone has nothing to be compared with


class TooManyDrops(OverreadError):  # noqa: N818 - reads as what happened
    """Most of the last groups were dropped: the run stops, resumably."""


class Rollouts(Protocol):
    """What the producer needs of the cluster."""

    async def produce(self, order: GroupOrder) -> tuple[GroupSummary, object]: ...


@dataclass(frozen=True)
class Produced:
    """A group in the buffer: its numbers and the reference to it."""

    summary: GroupSummary
    reference: object


class IssueOrder:
    """Which prompt comes next: first what a restored checkpoint left open, then the seeded order."""

    def __init__(self, source: PromptSource, by_id: Mapping[str, Prompt], left_open: Sequence[Issue] = ()) -> None:
        self._source = source
        self._by_id = by_id
        self._left_open = deque(left_open)

    def next(self) -> tuple[Issue, Prompt]:
        if self._left_open:
            issue = self._left_open.popleft()
            return issue, self._by_id[issue.prompt_id]
        position = self._source.state()["cursor"]
        prompt, epoch = self._source.next()
        return Issue(position, prompt.prompt_id, epoch), prompt

    def cursor(self) -> dict[str, int]:
        return self._source.state()

    def waiting(self) -> list[Issue]:
        """Left open and not issued again yet."""
        return list(self._left_open)


class Producer:
    """Issues prompts into free slots and follows each group to the buffer or to its drop."""

    def __init__(
        self,
        rollouts: Rollouts,
        run: RunFolder,
        order: IssueOrder,
        buffer: GroupBuffer[Produced],
        incarnation: int,
    ) -> None:
        self._rollouts = rollouts
        self._run = run
        self._order = order
        self._buffer = buffer
        self._incarnation = incarnation
        self._recent: deque[str | None] = deque(maxlen=DROP_WINDOW)
        self._drops: Counter[str] = Counter()

    def drain_drops(self) -> Counter[str]:
        """Drops by cause since the last call."""
        drops, self._drops = self._drops, Counter()
        return drops

    async def run(self) -> None:
        """Issue until cancelled; what ends production goes to whoever takes from the buffer."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    slot = await self._buffer.acquire()
                    issue, prompt = self._order.next()
                    order = self._order_for(issue, prompt)
                    # Before anything is awaited: a checkpoint must find the place in the ledger or behind the cursor.
                    self._run.ledger.issued(order.group_id, issue, self._incarnation)
                    tasks.create_task(self._follow(slot, order))
        except* Exception as errors:  # noqa: BLE001 - nothing is swallowed: take() raises it in the train loop
            await self._buffer.fail(_first(errors))

    def _order_for(self, issue: Issue, prompt: Prompt) -> GroupOrder:
        rollout = self._run.recipe.rollout
        sampling = Sampling(
            temperature=rollout.temperature,
            max_tokens=rollout.max_tokens,
            seed=group_seed(self._run.recipe.seed, issue.prompt_id, issue.epoch),
        )
        group_id = f"{issue.position:09d}-{self._incarnation}"
        return GroupOrder(group_id, prompt, issue.epoch, self._incarnation, sampling, rollout.group_size)

    async def _follow(self, slot: Slot, order: GroupOrder) -> None:
        outcome = await self._attempt(slot, order)
        if isinstance(outcome, Produced) and outcome.summary.scored < MIN_SCORED:
            outcome = "too_few_scores"
        if isinstance(outcome, str):
            await self._drop(slot, order.group_id, outcome)
            return
        summary = outcome.summary
        self._recent.append(None)
        self._run.ledger.generated(
            order.group_id,
            worker=summary.worker,
            oldest_version=summary.oldest_version,
            reward_mean=summary.reward_mean,
            scored=summary.scored,
        )
        await self._buffer.add(slot, outcome)

    async def _attempt(self, slot: Slot, order: GroupOrder) -> Produced | str:
        """The group, or the cause of its drop.

        Raises:
            RewardError: the service is away past its deadline: the run ends, resumably.
            RolloutError: no worker is left: the run ends, resumably.
        """
        cause = ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return Produced(*await self._rollouts.produce(order))
            except RolloutError as error:
                if error.cause == NO_WORKER:
                    raise
                cause, message = error.cause, error.message
            except DeadlineError as error:
                cause, message = "deadline", str(error)
            except RewardError as error:
                if error.code not in BLAMED_ON_THE_GROUP:
                    raise
                cause, message = f"reward_{error.code}", error.message
            self._run.event("rollout_failed", group=order.group_id, cause=cause, message=message, attempt=attempt)
            if cause not in RETRIED_CAUSES:
                break
            await self._buffer.reissue(slot)
        return cause

    async def _drop(self, slot: Slot, group_id: str, cause: str) -> None:
        self._run.ledger.dropped(group_id, cause, step=self._buffer.version + 1)
        self._drops[cause] += 1
        self._recent.append(cause)
        await self._buffer.give_up(slot)
        dropped = Counter(entry for entry in self._recent if entry is not None)
        if len(self._recent) == DROP_WINDOW and dropped.total() > DROP_LIMIT * DROP_WINDOW:
            worst, count = dropped.most_common(1)[0]
            raise TooManyDrops(
                f"{dropped.total()} of the last {DROP_WINDOW} groups were dropped, {count} of them for {worst};"
                " see events.jsonl"
            )


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


@asynccontextmanager
async def producing(producer: Producer) -> AsyncIterator[Producer]:
    """Produce while inside. The body is never interrupted in a step: an error comes out of ``buffer.take``."""
    task = asyncio.create_task(producer.run())
    try:
        yield producer
    finally:
        task.cancel()
        await asyncio.wait({task})
