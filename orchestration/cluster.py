"""The cluster of a run; beside serve_cluster.py the only module that imports ray. Actors are actors.py's plain classes.

    driver --orders--> RolloutNode x N --(summary, reference)--> driver --references--> LearnerRank x M, Recorder

The driver gets numbers and object references, never tensors (promise 8); every wait has a deadline (promise 11).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from learner.settings import LearnerSettings
from orchestration.actors import LearnerRank, Recorder, RolloutNode
from orchestration.config import Recipe
from orchestration.groups import GroupOrder, GroupSummary
from orchestration.placement import share_gpus
from orchestration.serve_cluster import live_nodes
from orchestration.waits import Waits
from rewards.client import RewardAccess
from rewards.scale import ScaleSettings
from schemas.errors import LearnerError, OverreadError, RolloutError, WeightPushError
from schemas.group import Sampling
from schemas.prompt import Conversation, Prompt

Metrics = dict[str, float | None]
GroupRef = Any  # ray.ObjectRef of a travelling group; ray's own type is not generic over actor methods

# Seconds that a wait is given before anything was measured; afterwards ten times the longest one counts.
FLOORS = {
    "engine start": 600.0,  # imports alone take a minute on two cores
    "learner start": 600.0,
    "training step": 600.0,
    "weight push": 120.0,
    "canary": 120.0,
    "checkpoint": 300.0,
    "recording": 120.0,
    "engine counters": 60.0,
}
_NO_REPLICAS = ScaleSettings()
_SHUTDOWN_S = 20.0
_GENERATION_SLACK_S = 60.0
_CANARY_TOKENS = 8
_CALLS_AT_ONCE = 4096  # of one rollout actor: its groups in flight, far above what the buffer's slots allow
_FATAL_TO_WORKER = frozenset({"engine_dead", "weights_unknown"})


def waits_of(recipe: Recipe) -> Waits:
    """The deadlines of a recipe's run: a group has its worker's own deadline, and the reward service's, before ours."""
    generation = recipe.rollout.group_deadline_s + recipe.reward.deadline_s + _GENERATION_SLACK_S
    return Waits({**FLOORS, "generation": generation})


async def resolve(reference: Awaitable[Any]) -> Any:
    """Await an object reference; an Overread error of the other side comes back as itself, not as Ray's wrapper."""
    try:
        return await reference
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, OverreadError):
            raise cause from None
        raise


@dataclass
class Worker:
    """A rollout actor and what the driver knows of it."""

    name: str
    actor: Any
    in_flight: int = 0
    alive: bool = True


@dataclass(frozen=True)
class Push:
    """One weight push to all engines: seconds (also without generation), bytes, the canary's seconds and gap (nats)."""

    version: int
    seconds: float
    pause_s: float
    bytes: int
    canary_s: float
    canary_gap: float


class LearnerGroup:
    """The learner's ranks as one."""

    def __init__(self, actors: Sequence[Any], waits: Waits) -> None:
        self._actors = list(actors)
        self._waits = waits

    @property
    def ranks(self) -> int:
        return len(self._actors)

    async def start(self, total_steps: int, seed: int) -> float:
        """Start all ranks; seconds of the slowest."""
        meeting_point = await self._all("learner start", "the run stops", [self._actors[0].meeting_point.remote()])
        started = [
            actor.start.remote(meeting_point[0], world_size=self.ranks, total_steps=total_steps, seed=seed)
            for actor in self._actors
        ]
        return float(max(await self._all("learner start", "the run stops", started)))

    async def _all(self, kind: str, then: str, references: Sequence[Any]) -> list[Any]:
        gathered = asyncio.gather(*(resolve(reference) for reference in references))
        try:
            return await self._waits.wait(kind, "the learner", then, gathered)
        except RayActorError as error:
            raise LearnerError(f"a learner rank died during a {kind}; see logs/learner-*.log; {then}") from error

    async def train_step(self, groups: Sequence[GroupRef], version: int) -> tuple[Metrics, list[Any]]:
        """Train on the groups at the learner's ``version``.

        Returns:
            Global metrics, and references: first the ranks' StepLogprobs, then the groups in the ranks' order.
        """
        shares = [list(groups[rank :: self.ranks]) for rank in range(self.ranks)]
        pairs = [
            actor.train_step.options(num_returns=2).remote(version, *share)
            for actor, share in zip(self._actors, shares, strict=True)
        ]
        then = "the run stops; resume it from its last checkpoint"
        metrics = await self._all("training step", then, [pair[0] for pair in pairs])
        return metrics[0], [*(pair[1] for pair in pairs), *(group for share in shares for group in share)]

    async def weights(self, version: int) -> Any:
        """A reference to the served weights, gathered by all ranks."""
        pairs = [actor.weights.options(num_returns=2).remote(version) for actor in self._actors]
        await self._all("weight push", "the run stops; resume it from its last checkpoint", [pair[0] for pair in pairs])
        return pairs[0][1]

    async def canary_gap(self, group: GroupRef) -> float:
        """Largest gap between the engine's and the learner's log-probabilities on a group (nats)."""
        # All ranks take part (ZeRO-3 gathers parameters), rank 0's answer counts.
        answers = await self._all("canary", "the push is refused", [a.logprobs.remote(group) for a in self._actors])
        ours_T, theirs_T = (np.concatenate(one_group[0]) for one_group in answers[0])
        return float(np.abs(ours_T - theirs_T).max())  # NaN if any is: no tolerance lets it pass

    async def save_checkpoint(self, folder: Path) -> None:
        await self._all("checkpoint", "the run stops", [a.save_checkpoint.remote(folder) for a in self._actors])

    async def load_checkpoint(self, folder: Path) -> None:
        await self._all("checkpoint", "the run stops", [a.load_checkpoint.remote(folder) for a in self._actors])

    async def export(self, folder: Path) -> None:
        await self._all("checkpoint", "the run stops", [a.export.remote(folder) for a in self._actors])

    async def sft_step(
        self, batch: Sequence[Conversation], following: Sequence[Conversation]
    ) -> dict[str, float | None]:
        """One SFT step on a global batch, while the ranks read the following one."""
        references = [
            actor.sft_step.remote(batch[rank :: self.ranks], following[rank :: self.ranks])
            for rank, actor in enumerate(self._actors)
        ]
        return cast(
            "dict[str, float | None]", (await self._all("training step", "the warm start stops", references))[0]
        )

    def stop(self) -> None:
        """End the actors and free their cores."""
        for actor in self._actors:
            ray.kill(actor)


@dataclass
class Cluster:
    """A run's rollout workers and recorder; the learner, where there is one, is passed in."""

    workers: list[Worker]
    recorder: Any
    waits: Waits
    canary_tolerance: float

    async def produce(self, order: GroupOrder) -> tuple[GroupSummary, GroupRef]:
        """Generate and score one group on the least loaded worker; its numbers and its reference.

        Raises:
            RolloutError: the engine could not, or its worker died (cause ``worker_died``).
            RewardError: the reward service could not be asked.
        """
        worker = min((w for w in self.workers if w.alive), key=lambda w: w.in_flight, default=None)
        if worker is None:
            raise RolloutError("no_worker", "every rollout worker has died")
        worker.in_flight += 1
        try:
            summary, group = worker.actor.produce.options(num_returns=2).remote(order)
            waited = self.waits.wait("generation", worker.name, "its group is issued again", resolve(summary))
            return cast("GroupSummary", await waited), group
        except RayActorError as error:
            worker.alive = False
            raise RolloutError("worker_died", f"{worker.name} died") from error
        except RolloutError as error:
            if error.cause in _FATAL_TO_WORKER:
                worker.alive = False
            raise
        finally:
            worker.in_flight -= 1

    async def push_weights(self, learner: LearnerGroup, version: int, canary: Prompt) -> Push:
        """Bring the learner's weights into every engine and prove it: digests on receipt, then the canary.

        Raises:
            WeightPushError: digests differ, or the canary's gap is above its tolerance.
            RolloutError: no worker is left.
        """
        started = time.monotonic()
        weights = await learner.weights(version)
        reports = await self._on_live(
            "weight push", lambda worker: worker.actor.receive_weights.remote(version, weights)
        )
        arrived = time.monotonic()
        gaps = [await self._canary_gap(learner, worker, canary, version) for worker in self._live()]
        return Push(
            version=version,
            seconds=arrived - started,
            pause_s=max(report.pause_s for report in reports),
            bytes=sum(report.bytes for report in reports),
            canary_s=time.monotonic() - arrived,
            canary_gap=max(gaps),
        )

    def _live(self) -> list[Worker]:
        """Raises RolloutError where no worker is left."""
        live = [worker for worker in self.workers if worker.alive]
        if not live:
            raise RolloutError("no_worker", "every rollout worker has died; see logs/rollout-*.log")
        return live

    async def _on_live(self, kind: str, call: Callable[[Worker], Any]) -> list[Any]:
        """What the live workers answer; one that dies meanwhile is left out from then on.

        Raises:
            RolloutError: no worker is left.
        """
        live = self._live()
        names = ", ".join(worker.name for worker in live)
        gathered = asyncio.gather(*(resolve(call(worker)) for worker in live), return_exceptions=True)
        answers = await self.waits.wait(kind, names, "the run stops", gathered)
        for worker, answer in zip(live, answers, strict=True):
            if isinstance(answer, RayActorError):
                worker.alive = False
            elif isinstance(answer, BaseException):
                raise answer
        self._live()
        return [answer for answer in answers if not isinstance(answer, RayActorError)]

    async def _canary_gap(self, learner: LearnerGroup, worker: Worker, prompt: Prompt, version: int) -> float:
        sampling = Sampling(temperature=1.0, max_tokens=_CANARY_TOKENS)  # a greedy token has no probability to mirror
        order = GroupOrder(f"canary-{version}", prompt, 0, 0, sampling, 1)
        summary, group = worker.actor.generate.options(num_returns=2).remote(order)
        try:
            made = await self.waits.wait("canary", worker.name, "the push is refused", resolve(summary))
        except (RayActorError, RolloutError) as error:
            raise WeightPushError(f"{worker.name} did not answer the canary of version {version}: {error}") from error
        gap = await learner.canary_gap(group)
        if made.oldest_version != version or not gap <= self.canary_tolerance:
            raise WeightPushError(
                f"{worker.name} answers the canary at version {made.oldest_version} with a gap of {gap:.2e} nats after"
                f" the push of version {version}; at most canary_tolerance = {self.canary_tolerance:g} is allowed"
            )
        return gap

    async def record_step(self, path: Path, step: int, ranks: int, references: Sequence[Any]) -> int:
        """Write a step's parquet file from what ``train_step`` returned; bytes."""
        written = self.recorder.write_step.remote(path, step, ranks, *references)
        return int(await self.waits.wait("recording", "the recorder", "the run stops", resolve(written)))

    async def record_groups(self, path: Path, groups: Sequence[GroupRef]) -> int:
        """Write an evaluation's groups from references; bytes."""
        written = self.recorder.write_groups.remote(path, *groups)
        return int(await self.waits.wait("recording", "the recorder", "the evaluation stops", resolve(written)))

    async def stats(self) -> dict[str, float]:
        """Engine counters summed over the live workers. Raises RolloutError where none is left."""
        rows = await self._on_live("engine counters", lambda worker: worker.actor.stats.remote())
        return {key: sum(row[key] for row in rows) for key in rows[0]}


def joins_cluster() -> bool:
    """Whether this process uses a Ray cluster that outlives it, named by RAY_ADDRESS (a submitted job)."""
    return bool(os.environ.get("RAY_ADDRESS"))


@asynccontextmanager
async def ray_session() -> AsyncIterator[None]:
    """A Ray cluster for the time inside: the one in RAY_ADDRESS, else one on this machine."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if joins_cluster():
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray turns token authentication on for its own clusters. With a token for this one alone it leaves none in the
        # home folder, which every later `ray start` would ask its clients for.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # "local": without it Ray would join, or wait for, whatever cluster was last started on this machine.
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def learner_group(
    settings: LearnerSettings,
    model_path: str,
    cores: Sequence[Sequence[int]],
    gpu_share: float,
    log_dir: Path,
    waits: Waits,
) -> LearnerGroup:
    """Create the learner's actors; ``LearnerGroup.start`` starts them.

    Args:
        cores: of each rank; empty where it has a GPU.
        gpu_share: of a GPU for each rank.
    """
    actors = [
        ray.remote(LearnerRank)
        .options(num_cpus=settings.cores if gpu_share else len(rank_cores), num_gpus=gpu_share)
        .remote(settings, model_path, rank, rank_cores, log_dir / f"learner-{rank}.log")
        for rank, rank_cores in enumerate(cores)
    ]
    return LearnerGroup(actors, waits)


def gpu_share_of(processes: int, scale: ScaleSettings = _NO_REPLICAS) -> float:
    """GPUs for each of so many engines and ranks, beside the reward service's replicas; 0 where there are none."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    return share_gpus(processes, gpus, live_nodes("GPU"), scale)


def rollout_workers(
    recipe: Recipe,
    model_path: str,
    access: RewardAccess,
    cores: Sequence[Sequence[int]],
    gpu_share: float,
    log_dir: Path,
) -> list[Worker]:
    """Create the rollout actors; arguments as for ``learner_group``."""
    workers = []
    for index, worker_cores in enumerate(cores):
        name = f"rollout-{index}"
        actor = (
            ray.remote(RolloutNode)
            .options(num_cpus=len(worker_cores) or 1, num_gpus=gpu_share, max_concurrency=_CALLS_AT_ONCE)
            .remote(recipe.rollout, recipe.reward, access, model_path, name, worker_cores, log_dir / f"{name}.log")
        )
        workers.append(Worker(name, actor))
    return workers


def new_recorder(log_dir: Path) -> Any:
    """The actor that writes parquet files; it runs where the driver runs, and needs no core of its own."""
    return ray.remote(Recorder).options(num_cpus=0).remote(log_dir / "recorder.log")


async def start_engines(workers: Sequence[Worker], waits: Waits) -> float:
    """Start all engines side by side; seconds of the slowest."""
    started = asyncio.gather(*(resolve(worker.actor.start.remote()) for worker in workers))
    return float(max(await waits.wait("engine start", ", ".join(w.name for w in workers), "the run stops", started)))


async def stop_workers(workers: Sequence[Worker]) -> None:
    """Close the engines and end the actors; one that does not answer is killed."""
    closing = [asyncio.ensure_future(resolve(w.actor.close.remote())) for w in workers if w.alive]
    if closing:
        await asyncio.wait(closing, timeout=_SHUTDOWN_S)
    for worker in workers:
        ray.kill(worker.actor)
