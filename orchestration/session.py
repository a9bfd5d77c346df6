"""A whole training run: assets, actors, evaluation before, training, evaluation after, summary.

    assets -> Ray -> [warm start] -> service + engines + learner -> before -> train -> after -> summary, report

Input: a run folder, new or reopened. Output: an exit status; everything else lies in the run folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from orchestration.assets import ensure_data, ensure_model, warm_start_folder
from orchestration.cluster import (
    Cluster,
    LearnerGroup,
    gpu_share_of,
    learner_group,
    new_recorder,
    ray_session,
    rollout_workers,
    start_engines,
    stop_workers,
    waits_of,
)
from orchestration.config import Recipe
from orchestration.evaluate import HeldOut, choose_prompts
from orchestration.placement import on_gpus, place_run, usable_cores
from orchestration.preflight import usable_prompts
from orchestration.producer import IssueOrder
from orchestration.progress import Display
from orchestration.report import write_report
from orchestration.run import Checkpoint, RunFolder
from orchestration.serve_cluster import check_room
from orchestration.service import reward_access
from orchestration.sft import warm_start
from orchestration.stages import Stages
from orchestration.stop import EXIT_DONE, EXIT_STOPPED, StopRequest
from orchestration.summary import show_summary, write_summary
from orchestration.train import Trainer, TrainHooks, choose_canary, fresh_start
from prompts.source import PromptSource
from schemas.errors import OverreadError
from schemas.prompt import Prompt


class Session:
    """One run from its assets to its report.

    Args:
        restored: the checkpoint folder to go on from; None for a new run.
        display: where a person watches.
    """

    def __init__(self, run: RunFolder, restored: Path | None, display: Display) -> None:
        self._run = run
        self._recipe: Recipe = run.recipe
        self._restored = restored
        self._display = display
        self._stop = StopRequest()
        self._stages = Stages()
        self._waits = waits_of(run.recipe)
        self._step = 0

    async def run(self) -> int:
        """Run to the end, or to a stop request; the exit status.

        Raises:
            OverreadError: the run failed; its checkpoints are whole, and summary.json says how far it came.
        """
        try:
            with self._stop.on_signals():
                return await self._to_the_end()
        except OverreadError as error:
            self._run.event("run_failed", error=type(error).__name__, message=str(error), step=self._step)
            write_summary(self._run, "failed", self._step, self._stages.seconds())
            raise

    async def _to_the_end(self) -> int:
        recipe, logs = self._recipe, self._run.path / "logs"
        with self._stages.stage("assets"):
            data = await asyncio.to_thread(ensure_data, recipe, self._display.note)
            train_prompts = usable_prompts(recipe, data, "train")
            base_model = await asyncio.to_thread(ensure_model, recipe, self._display.note)
        async with AsyncExitStack() as stack:
            with self._stages.stage("ray"), self._display.working("starting Ray"):
                await stack.enter_async_context(ray_session())
            stack.enter_context(self._stop.on_signals())  # again: Ray has set a SIGTERM handler of its own
            model = None if self._stop.requested else await self._warm_start(data, base_model, logs)
            if model is not None:
                cluster, learner = await stack.enter_async_context(self._actors(model, logs))
                await self._train(cluster, learner, data, train_prompts)
        return await self._finish()

    async def _train(self, cluster: Cluster, learner: LearnerGroup, data: Path, train_prompts: list[Prompt]) -> None:
        """Evaluate, train, evaluate; a stop request ends each of them early."""
        held_out = self._held_out(cluster, data)
        trainer = await self._prepare(cluster, learner, train_prompts, held_out)
        self._step = trainer.step
        await held_out.before(self._stop)
        if self._stop.requested:
            return
        try:
            with self._stages.stage("train"), self._display.training(self._recipe.steps):
                await trainer.train(self._stop)
        finally:
            self._step = trainer.step
        if trainer.step == self._recipe.steps:
            await held_out.after(self._stop)

    async def _warm_start(self, data: Path, base_model: Path, logs: Path) -> Path | None:
        """The folder of the policy that RL starts from; None if the warm start was stopped."""
        recipe = self._recipe
        if recipe.sft is None:
            return base_model
        out = warm_start_folder(recipe, base_model)
        if out.exists():
            self._display.note(f"using the warm start in {out}")
            return out
        self._display.note(f"no warm start yet: training one of {recipe.sft.steps} steps into {out}")
        with self._stages.stage("warm_start"), self._display.warm_start(recipe.sft.steps) as show:
            done = await warm_start(recipe, data, base_model, out, logs, self._stop, show)
        return out if done else None

    @asynccontextmanager
    async def _actors(self, model: Path, logs: Path) -> AsyncIterator[tuple[Cluster, LearnerGroup]]:
        """Reward service, engines and learner, started side by side; stopped at the end."""
        recipe, waits = self._recipe, self._waits
        gpu_share = gpu_share_of(recipe.rollout.workers + recipe.learner.ranks, recipe.reward.scale)
        placement = (
            on_gpus(recipe.rollout.workers, recipe.learner.ranks) if gpu_share else place_run(recipe, usable_cores())
        )
        cores = recipe.rollout.workers * (1 if gpu_share else recipe.rollout.cores_per_worker)
        check_room(recipe.reward.scale, cores + recipe.learner.ranks * recipe.learner.cores)
        async with reward_access(recipe.reward, self._run.path, self._run.event) as access:
            recorder = new_recorder(logs)  # its imports run beside the engines'
            workers = rollout_workers(recipe, str(model), access, placement.workers, gpu_share, logs)
            learner = learner_group(recipe.learner, str(model), placement.ranks, gpu_share, logs, waits)
            try:
                with self._stages.stage("start"), self._display.working("starting engines and learner"):
                    await asyncio.gather(
                        start_engines(workers, waits), learner.start(total_steps=recipe.steps, seed=recipe.seed)
                    )
                yield Cluster(workers, recorder, waits, recipe.rollout.canary_tolerance), learner
            finally:
                await stop_workers(workers)
                learner.stop()

    async def _prepare(
        self, cluster: Cluster, learner: LearnerGroup, train_prompts: list[Prompt], held_out: HeldOut
    ) -> Trainer:
        """Restore or begin: learner, cursor and ledger of one instant, engines at the run's version."""
        run = self._run
        source = PromptSource(train_prompts, self._recipe.seed)
        start = fresh_start(source.state()) if self._restored is None else Checkpoint.read(self._restored)
        start = replace(start, incarnation=run.ledger.next_incarnation())
        source.restore(start.cursor)
        canary = choose_canary(train_prompts)
        if self._restored is not None:
            await learner.load_checkpoint(self._restored / "learner")
            await cluster.push_weights(learner, start.version, canary)
        if start.incarnation > 0:
            run.ledger.roll_back(start.step)
            run.abandon_after(start.step)
            run.event("resumed", step=start.step, incarnation=start.incarnation)
        order = IssueOrder(source, {p.prompt_id: p for p in train_prompts}, start.open_issues)
        hooks = TrainHooks(held_out.during, self._display.step)
        return Trainer(run, cluster, learner, order, start, canary, hooks)

    def _held_out(self, cluster: Cluster, data: Path) -> HeldOut:
        settings = self._recipe.evaluation
        prompts: list[Prompt] = []
        if settings.prompts_per_task:
            pool = usable_prompts(self._recipe, data, settings.split)
            prompts = choose_prompts(pool, settings.prompts_per_task, self._recipe.seed)
        return HeldOut(self._run, cluster, prompts, self._display, self._stages)

    async def _finish(self) -> int:
        run = self._run
        status = "stopped" if self._stop.requested else "done"
        summary = write_summary(run, status, self._step, self._stages.seconds())
        await asyncio.to_thread(write_report, run.path, run.path / "report.html")
        if self._stop.requested:
            return self._stopped()
        show_summary(summary, self._display)
        self._display.note(f"report: {run.path / 'report.html'}")
        return EXIT_DONE

    def _stopped(self) -> int:
        self._run.event("stopped", signal=self._stop.signal_name, step=self._step)
        resume = f"go on with: overread train --resume {self._run.path}"
        self._display.note(f"stopped by {self._stop.signal_name} after step {self._step}; {resume}")
        return EXIT_STOPPED
