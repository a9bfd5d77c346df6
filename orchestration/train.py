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
from orchestration.producer import IssueOrder, Produced, Producer, TooManyDrops, producing
from orchestration.run import Checkpoint, RunFolder
from orchestration.step_metrics import StepTimes, metrics_line
from orchestration.stop import StopRequest
from schemas.errors import LearnerError, RewardError, RolloutError
from schemas.prompt import Prompt

SKIPPED_STEPS_LIMIT = 5

StepLine = Mapping[str, float | int | None]


@dataclass(frozen=True)
class TrainHooks:
    """What the loop calls out to: evaluation (extra keys for the step's line) and the display."""

    evaluate: Callable[[int], Awaitable[StepLine]]
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
            self._recipe.groups_per_step, self._recipe.max_staleness, start.version
        )

    async def train(self, stop: StopRequest) -> None:
        """Train until the last step or a stop request; ends with a checkpoint either way.

        Raises:
            RewardError, RolloutError, TooManyDrops: production ended; a checkpoint is written to resume from.
        """
        producer = Producer(self._cluster, self._run, self._order, self._buffer, self._incarnation)
        ended = time.monotonic()
        try:
            async with producing(producer):
                while self.step < self._recipe.steps and not stop.requested:
                    groups = await stop.first(self._buffer.take())
                    if groups is None:
                        break
                    ended = await self._one_step(groups, producer, ended)
        except (RewardError, RolloutError, TooManyDrops) as error:
            self._run.event("run_stopped", reason=type(error).__name__, message=str(error), step=self.step)
            await self._checkpoint()
            raise
        await self._checkpoint()

    async def _one_step(self, groups: list[Buffered[Produced]], producer: Producer, last_end: float) -> float:
        """Train, push, record; the time from which the next step counts (an evaluation is no step's time)."""
        taken = time.monotonic()
        step = self.step + 1
        references = [buffered.group.reference for buffered in groups]
        metrics, recordable = await self._learner.train_step(references, self._buffer.version)
        self._refuse_endless_nan(metrics, step)
        trained = time.monotonic()
        recording = asyncio.create_task(
            self._cluster.record_step(self._run.step_path(step), step, self._learner.ranks, recordable)
        )
        push = await self._push(step)
        await recording
        await self._buffer.pushed(groups, push.version)
        self.step = step
        self._run.ledger.trained(
            step, self._incarnation, push.version, [buffered.group.summary.group_id for buffered in groups]
        )
        ended = time.monotonic()
        evaluated = await self._hooks.evaluate(step)
        stats = await self._cluster.stats()
        self._note_outages(stats)
        times = StepTimes(taken - last_end, trained - taken, push.seconds, ended - last_end)
        summaries = [buffered.group.summary for buffered in groups]
        line = {
            **metrics_line(step, summaries, producer.drain_drops(), metrics, push, times),
            **_engine_load(stats),
            **evaluated,
        }
        self._run.metrics(line)
        self._hooks.show(line)
        if step % self._recipe.checkpoint_every == 0:
            await self._checkpoint()
        return time.monotonic()

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

    async def _checkpoint(self) -> None:
        """Write a checkpoint of this instant, unless the step already has one."""
        if self._run.checkpoint_path(self.step).exists():
            return
        # The driver's half first and at once: issues that open while the learner writes are of a later instant.
        open_issues = sorted([*self._run.ledger.open_issues(), *self._order.waiting()], key=lambda i: i.position)
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
