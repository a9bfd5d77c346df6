"""The training loop: GRPO with decoupled rollouts, as drawn in docs/architecture.md.

    producing ... take -> train -> push -> record        one turn = one step = one weight push

Input: an opened run folder, prompts and a started cluster. Output: steps in the run folder and a last checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestration.buffer import Buffered, GroupBuffer
from orchestration.cluster import Cluster, LearnerGroup, Push
from orchestration.producer import IssueOrder, Produced, Producer, producing
from orchestration.run import Checkpoint, RunFolder
from orchestration.step_metrics import StepTimes, metrics_line
from orchestration.stop import StopRequest
from schemas.errors import LearnerError, OverreadError
from schemas.prompt import Prompt

SKIPPED_STEPS_LIMIT = 5

StepLine = Mapping[str, float | int | None]


@dataclass(frozen=True)
class TrainHooks:
    """What the loop calls out to between steps: evaluation where one is due, and the display."""

    evaluate: Callable[[int, StopRequest], Awaitable[None]]
    show: Callable[[StepLine], None]


class Trainer:
    """One run's loop and its checkpoints.

    Args:
        start: where the run stands: a fresh run's zero point, or a restored checkpoint.
        canary: the prompt that gates each push.
    """

    def __init__(
        self,
        run: RunFolder,
        cluster: Cluster,
        learner: LearnerGroup,
        order: IssueOrder,
        start: Checkpoint,
        canary: Prompt,
        hooks: TrainHooks,
    ) -> None:
        self._run = run
        self._recipe = run.recipe
        self._cluster = cluster
        self._learner = learner
        self._order = order
        self._canary = canary
        self._hooks = hooks
        self._incarnation = start.incarnation
        self._reward_retries = 0
        self._skipped_in_a_row = 0
        self.step = start.step
        self._buffer: GroupBuffer[Produced] = GroupBuffer(
            self._recipe.groups_per_step,
            self._recipe.max_staleness,
            groups_wanted=(self._recipe.steps - start.step) * self._recipe.groups_per_step,
            version=start.version,
        )

    async def train(self, stop: StopRequest) -> None:
        """Train until the last step or a stop request; ends with a checkpoint either way.

        Raises:
            OverreadError: production ended (a checkpoint is written to resume from), or a step failed (resume from the
                last checkpoint: the learner may be a step ahead of what was recorded).
        """
        producer = Producer(self._cluster, self._run, self._order, self._buffer, self._incarnation)
        ended = time.monotonic()
        async with producing(producer):
            while self.step < self._recipe.steps and not stop.requested:
                groups = await self._take(stop)
                if groups is None:
                    break
                line = await self._one_step(groups, producer, ended)
                self._run.metrics(line)
                self._hooks.show(line)
                if self.step % self._recipe.checkpoint_every == 0:
                    await self.checkpoint()
                await self._hooks.evaluate(self.step, stop)
                ended = time.monotonic()
        await self.checkpoint()

    async def _take(self, stop: StopRequest) -> list[Buffered[Produced]] | None:
        """The next step's groups; None if a stop is requested first."""
        try:
            return await stop.first(self._buffer.take())
        except OverreadError:
            await self.checkpoint()  # between steps learner, cursor and ledger are of one instant
            raise

    async def _one_step(self, groups: list[Buffered[Produced]], producer: Producer, last_end: float) -> StepLine:
        """Train, push, record; the step's line of metrics."""
        taken = time.monotonic()
        step = self.step + 1
        references = [buffered.group.reference for buffered in groups]
        metrics, recordable = await self._learner.train_step(references, self._buffer.version)
        self._refuse_endless_nan(metrics, step)
        trained = time.monotonic()
        recording = asyncio.create_task(
            self._cluster.record_step(self._run.step_path(step), step, self._learner.ranks, recordable)
        )
        try:
            push = await self._push(step)
        finally:
            await recording
        # No await from here to the ledger's row: a step is trained, pushed and recorded, or it is none of them.
        summaries = [buffered.group.summary for buffered in groups]
        self.step = step
        self._run.ledger.trained(step, self._incarnation, push.version, [s.group_id for s in summaries])
        await self._buffer.pushed(groups, push.version)
        stats = await self._cluster.stats()
        self._note_outages(stats)
        ended = time.monotonic()
        times = StepTimes(taken - last_end, trained - taken, push.seconds, ended - last_end)
        return metrics_line(step, summaries, producer.drain_drops(), {**metrics, **_engine_load(stats)}, push, times)

    def _note_outages(self, stats: Mapping[str, float]) -> None:
        retries = int(stats["reward_retries"])
        if retries > self._reward_retries:
            self._run.event("reward_retried", requests=retries - self._reward_retries, step=self.step)
        self._reward_retries = retries

    def _refuse_endless_nan(self, metrics: StepLine, step: int) -> None:
        """A skipped update is counted; so many steps of them mean that the policy can't be trained any further."""
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if metrics["updates_skipped"] else 0
        if self._skipped_in_a_row == SKIPPED_STEPS_LIMIT:
            raise LearnerError(
                f"loss or gradient was not finite in {SKIPPED_STEPS_LIMIT} steps in a row, the last one {step};"
                " lower learner.learning_rate and resume from the last checkpoint"
            )

    async def _push(self, version: int) -> Push:
        push = await self._cluster.push_weights(self._learner, version, self._canary)
        self._run.event("push", version=version, seconds=push.seconds, bytes=push.bytes, canary_gap=push.canary_gap)
        return push

    async def checkpoint(self) -> None:
        """Write a checkpoint of this instant, unless the step already has one."""
        if self._run.checkpoint_path(self.step).exists():
            return
        # The driver's half first and at once: issues that open while the learner writes are of a later instant.
        open_issues = sorted(
            [*self._run.ledger.open_issues(self.step), *self._order.waiting()], key=lambda i: i.position
        )
        snapshot = Checkpoint(
            self.step, self._buffer.version, self._incarnation, self._order.cursor(), tuple(open_issues)
        )
        folder = self._run.new_checkpoint_folder(self.step)
        await self._learner.save_checkpoint(folder / "learner")
        await self._learner.export(folder / "model")
        self._run.publish_checkpoint(folder, snapshot)
        self._run.event("checkpoint", step=self.step)


def _engine_load(stats: Mapping[str, float]) -> dict[str, float]:
    return {"rollout/running": stats["running"], "rollout/waiting": stats["waiting"]}


def fresh_start(issued: Mapping[str, int]) -> Checkpoint:
    """The zero point of a new run: step 0, version 0, the prompts' untouched cursor."""
    return Checkpoint(step=0, version=0, incarnation=0, cursor=dict(issued), open_issues=())


def choose_canary(prompts: Sequence[Prompt]) -> Prompt:
    """The first prompt with a picture, so that the vision tower is proven as well; else the first."""
    return next((prompt for prompt in prompts if prompt.images), prompts[0])
