"""Held-out evaluation: greedy, seeded, by the same workers and scorers as training.

    prompts -> one greedy completion each -> scores -> means with bootstrap 95 % intervals, paired differences

Patients are resampled, not prompts: the films of one patient are not independent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from orchestration.cluster import Cluster
from orchestration.files import write_atomically
from orchestration.groups import GroupOrder, GroupSummary
from orchestration.producer import ATTEMPTS, NO_WORKER, RETRIED_CAUSES
from orchestration.progress import Display
from orchestration.run import RunFolder
from orchestration.stages import Stages
from orchestration.statistics import Interval, bootstrap_mean, paired_bootstrap_difference
from orchestration.stop import StopRequest
from schemas.errors import DeadlineError, RolloutError
from schemas.group import Sampling
from schemas.prompt import Prompt

PROMPTS_AT_ONCE = 128  # per engine; a vLLM engine on a CPU is full with about as many


@dataclass(frozen=True)
class Evaluation:
    """Scores by metric and prompt_id, each prompt's patient and data set; ``missing`` counts failed generations."""

    values: Mapping[str, Mapping[str, float]]
    patients: Mapping[str, str]
    datasets: Mapping[str, str]
    missing: int

    @staticmethod
    def read(path: Path) -> Evaluation:
        """What ``write`` wrote. Raises OSError or ValueError."""
        return Evaluation(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self)))

    def means(self) -> dict[str, float]:
        """``eval/<data set>/<metric>`` -> mean, for a step's line of metrics."""
        line: dict[str, list[float]] = {}
        for metric, by_prompt in sorted(self.values.items()):
            for prompt_id, value in by_prompt.items():
                line.setdefault(f"eval/{self.datasets[prompt_id]}/{metric}", []).append(value)
        return {name: float(np.mean(values)) for name, values in line.items()}

    def intervals(self, seed: int) -> dict[str, Interval]:
        """Mean and 95 % interval of each metric."""
        return {
            metric: bootstrap_mean(list(by_prompt.values()), seed, clusters=[self.patients[p] for p in by_prompt])
            for metric, by_prompt in sorted(self.values.items())
        }


def difference(before: Evaluation, after: Evaluation, seed: int) -> dict[str, Interval]:
    """After minus before, paired by prompt, over the prompts that both could score."""
    intervals = {}
    for metric in sorted(before.values.keys() & after.values.keys()):
        ours, theirs = after.values[metric], before.values[metric]
        shared = [prompt_id for prompt_id in theirs if prompt_id in ours]
        if not shared:
            continue
        intervals[metric] = paired_bootstrap_difference(
            [theirs[p] for p in shared],
            [ours[p] for p in shared],
            seed,
            clusters=[before.patients[p] for p in shared],
        )
    return intervals


def choose_prompts(prompts: Sequence[Prompt], per_task: int, seed: int) -> list[Prompt]:
    """The first ``per_task`` prompts of each task in a seeded order; the same choice for the same data and seed."""
    chosen: list[Prompt] = []
    for task in sorted({prompt.task for prompt in prompts}):
        pool = sorted((p for p in prompts if p.task == task), key=lambda p: p.prompt_id)
        order = np.random.default_rng(seed).permutation(len(pool))
        chosen += [pool[index] for index in order[:per_task]]
    return chosen


async def evaluate(
    cluster: Cluster, prompts: Sequence[Prompt], max_tokens: int, label: str, record_to: Path
) -> Evaluation:
    """Generate greedily and score; the groups are recorded in ``record_to``.

    A prompt that can't be generated, or a score that could not be had, is missing: it is counted, never a number.

    Raises:
        RewardError: the reward service could not be asked.
        RolloutError, DeadlineError: the engines could not generate, for reasons that are no prompt's fault.
    """
    orders = [
        GroupOrder(
            group_id=f"{label}-{prompt.prompt_id}",
            prompt=prompt,
            epoch=0,
            incarnation=0,
            sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
            group_size=1,
        )
        for prompt in prompts
    ]
    # Not all at once: scores of the first answers are fetched while the engine writes the next ones.
    at_once = asyncio.Semaphore(PROMPTS_AT_ONCE * len(cluster.workers))
    outcomes = await asyncio.gather(*(_one(cluster, order, at_once) for order in orders))
    made = [(order.prompt, *outcome) for order, outcome in zip(orders, outcomes, strict=True) if outcome is not None]
    if made:
        await cluster.record_groups(record_to, [group for _, _, group in made])
    values: dict[str, dict[str, float]] = {}
    for prompt, summary, _ in made:
        for name, scores in summary.scores.items():
            values.setdefault(name, {})[prompt.prompt_id] = scores[0]
        if summary.rewards[0] is not None:
            values.setdefault(f"reward_{prompt.task}", {})[prompt.prompt_id] = summary.rewards[0]
    return Evaluation(
        values,
        patients={prompt.prompt_id: prompt.patient_id for prompt in prompts},
        datasets={prompt.prompt_id: prompt.dataset for prompt in prompts},
        missing=len(prompts) - len(made),
    )


async def _one(cluster: Cluster, order: GroupOrder, at_once: asyncio.Semaphore) -> tuple[GroupSummary, object] | None:
    """The prompt's group; None where the prompt itself is to blame that there is none.

    Raises:
        RolloutError, DeadlineError: the engines are to blame, after as many attempts as in training: an evaluation of
            what happened to survive would be biased.
    """
    async with at_once:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await cluster.produce(order)
            except RolloutError as error:
                if error.cause not in RETRIED_CAUSES | {NO_WORKER}:
                    return None
                if error.cause == NO_WORKER or attempt == ATTEMPTS:
                    raise
            except DeadlineError:
                if attempt == ATTEMPTS:
                    raise
    return None


class HeldOut:
    """A run's evaluations: before training, every so many steps, and after the last step.

    Each leaves ``evaluations/<label>.json`` (scores) and ``<label>.parquet`` (groups) in the run folder. A resumed run
    makes up for what a stop left out.
    """

    def __init__(
        self, run: RunFolder, cluster: Cluster, prompts: Sequence[Prompt], display: Display, stages: Stages
    ) -> None:
        self._run = run
        self._cluster = cluster
        self._prompts = prompts
        self._display = display
        self._stages = stages

    async def before(self, stop: StopRequest) -> None:
        """Evaluate the start policy, unless the run has done so already."""
        if self._prompts and not self._path("before").exists():
            with self._display.working(f"evaluating {len(self._prompts)} held-out prompts before training"):
                await self._evaluate("before", None, stop)

    async def during(self, step: int, stop: StopRequest) -> None:
        """Evaluate where one is due between the first and the last step."""
        every, last = self._run.recipe.evaluation.every, self._run.recipe.steps
        if self._prompts and every and step % every == 0 and step < last:
            await self._evaluate(f"step-{step:06d}", step, stop)

    async def after(self, stop: StopRequest) -> None:
        """Evaluate the trained policy, unless the run has done so already."""
        if self._prompts and not self._path("after").exists():
            with self._display.working(f"evaluating {len(self._prompts)} held-out prompts after training"):
                await self._evaluate("after", self._run.recipe.steps, stop)

    def _path(self, label: str) -> Path:
        return self._run.path / "evaluations" / f"{label}.json"

    async def _evaluate(self, label: str, step: int | None, stop: StopRequest) -> None:
        """Nothing is written where a stop comes first."""
        with self._stages.stage(f"evaluate_{'during' if label.startswith('step') else label}"):
            max_tokens = self._run.recipe.rollout.max_tokens
            groups = self._path(label).with_suffix(".parquet")
            evaluation = await stop.first(evaluate(self._cluster, self._prompts, max_tokens, label, groups))
        if evaluation is None:
            return
        evaluation.write(self._path(label))
        self._run.event("evaluation", label=label, missing=evaluation.missing, **evaluation.means())
        if step is not None:
            self._run.amend_metrics(step, evaluation.means())
