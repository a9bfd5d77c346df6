"""What runs inside the actors, as plain classes: rooms put together, no Ray (cluster.py makes them remote).

    RolloutNode = rollout worker + picture loader + reward client      one a vLLM engine
    LearnerRank = DeepSpeed rank + picture processing for SFT          one a training process
    Recorder    = parquet writer                                       one a run

Each pins itself to its cores and sends its own output to its own log file before anything heavy is imported.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from learner.advantages import group_advantages
from learner.settings import LearnerSettings
from orchestration.groups import GroupOrder, GroupSummary
from prompts.images import load_image
from rewards.client import Retry, RewardAccess, RewardClient
from rewards.reward import combine
from rewards.settings import RewardServiceSettings
from rollout.affinity import pin
from rollout.settings import RolloutSettings
from schemas.arrow import pack_group, step_table, table_to_groups, unpack_group
from schemas.group import RolloutGroup
from schemas.processed import ProcessedConversation, ProcessedPrompt
from schemas.prompt import Conversation
from schemas.weights import WeightBucket

if TYPE_CHECKING:
    from rollout.worker import PushReport

Logprobs = list[list[list[float]]]  # [groups][completions][tokens]


@dataclass(frozen=True)
class StepLogprobs:
    """One rank's log-probabilities of a step (nats), in the order of its groups.

    Attributes:
        learner: of the policy before the step's first update.
        ref: of the reference policy; None without one.
    """

    learner: Logprobs
    ref: Logprobs | None


def log_to(path: Path) -> None:
    """Send this process's standard output and error, and its children's, to a file; all files are the owner's alone."""
    os.umask(0o077)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def settle_memory() -> None:
    """Exempt what start-up made from garbage collection.

    Millions of objects of imported libraries never become garbage; a full collection that walks them stops the
    process for half a second (measured: every 19th push took 0.7 s instead of 0.2 s).
    """
    gc.collect()
    gc.freeze()


class RolloutNode:
    """Generates a group, has it scored, computes rewards and advantages: a group leaves ready for training."""

    def __init__(
        self,
        settings: RolloutSettings,
        reward: RewardServiceSettings,
        access: RewardAccess,
        model_path: str,
        name: str,
        cores: Sequence[int],
        log_path: Path,
    ) -> None:
        log_to(log_path)
        if cores:  # with a GPU the cores only feed it
            pin(cores)
        from rollout.worker import RolloutWorker

        self._reward = reward
        self._worker = RolloutWorker(settings, model_path, load_image, name)
        self._client = RewardClient(access.addresses, access.token, reward.deadline_s, on_retry=self._count_retry)
        self._reward_retries = 0

    async def start(self) -> float:
        """Start the engine; seconds that it took."""
        started = time.monotonic()
        await self._worker.start()
        settle_memory()
        return time.monotonic() - started

    async def generate(self, order: GroupOrder) -> tuple[GroupSummary, pa.Table]:
        """One travelling group, not scored. Raises RolloutError when the engine could not generate it."""
        group, processed = await self._generate(order)
        return GroupSummary.of(group), pack_group(group, processed)

    async def produce(self, order: GroupOrder) -> tuple[GroupSummary, pa.Table]:
        """One travelling group with scores, rewards and advantages.

        Raises:
            RolloutError: the engine could not generate it.
            RewardError: the reward service could not be asked.
        """
        group, processed = await self._generate(order)
        weights = self._reward.weights.get(order.prompt.task, {})
        group = await self._client.score_group(group, tuple(weights), self._reward.params)
        group = with_rewards(group, weights)
        return GroupSummary.of(group), pack_group(group, processed)

    async def _generate(self, order: GroupOrder) -> tuple[RolloutGroup, ProcessedPrompt]:
        return await self._worker.generate_group(
            order.prompt,
            group_id=order.group_id,
            epoch=order.epoch,
            incarnation=order.incarnation,
            sampling=order.sampling,
            group_size=order.group_size,
        )

    async def receive_weights(self, version: int, buckets: Sequence[WeightBucket]) -> PushReport:
        return await self._worker.receive_weights(buckets, version)

    def stats(self) -> dict[str, float]:
        """The engine's counters, and how often the reward service had to be asked again."""
        return {**self._worker.stats(), "reward_retries": self._reward_retries}

    def _count_retry(self, _: Retry) -> None:
        self._reward_retries += 1

    async def close(self) -> None:
        await self._client.close()
        await self._worker.close()


def with_rewards(group: RolloutGroup, weights: Mapping[str, float]) -> RolloutGroup:
    """The group with each completion's reward (None where a weighted score is missing) and advantage."""
    rewards = [combine(c.scores, c.errors, weights) for c in group.completions]
    advantages = group_advantages(rewards)
    completions = tuple(
        completion.model_copy(update={"reward": reward, "advantage": advantage})
        for completion, reward, advantage in zip(group.completions, rewards, advantages, strict=True)
    )
    return group.model_copy(update={"completions": completions})


class LearnerRank:
    """One DeepSpeed rank."""

    def __init__(
        self, settings: LearnerSettings, model_path: str, rank: int, cores: Sequence[int], log_path: Path
    ) -> None:
        log_to(log_path)
        if cores:
            pin(cores)
        self._settings = settings
        self._model_path = model_path
        self._rank = rank
        self._reader = ThreadPoolExecutor(1, "reader")
        self._prefetched: Future[list[ProcessedConversation]] | None = None

    def meeting_point(self) -> tuple[str, int]:
        """A host and a free port of rank 0 for the ranks to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        try:
            host = socket.gethostbyname(socket.gethostname())
        except socket.gaierror:  # a machine whose own name does not resolve has no other node to meet
            host = "127.0.0.1"
        return host, port

    def start(self, meeting_point: tuple[str, int], *, world_size: int, total_steps: int, seed: int) -> float:
        """Load the model and start DeepSpeed; seconds that it took."""
        started = time.monotonic()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meeting_point[0], str(meeting_point[1])
        from learner.engine import Learner
        from rollout.processor import Processor

        self._processor = Processor(self._model_path)
        self._learner = Learner(
            self._settings,
            self._model_path,
            rank=self._rank,
            world_size=world_size,
            forbidden_token_ids=self._processor.vision_token_ids,
            total_steps=total_steps,
            seed=seed,
        )
        settle_memory()
        return time.monotonic() - started

    def train_step(self, version: int, *tables: pa.Table) -> tuple[dict[str, float | None], StepLogprobs]:
        """One step on this rank's share of the groups: global metrics, this rank's log-probabilities."""
        result = self._learner.train_step([unpack_group(table) for table in tables], version)
        return result.metrics, StepLogprobs(result.learner_logprobs, result.ref_logprobs)

    def logprobs(self, *tables: pa.Table) -> tuple[Logprobs, Logprobs]:
        """The learner's and the engine's log-probabilities of these groups' tokens, for the canary."""
        groups = [unpack_group(table) for table in tables]
        theirs = [[list(c.rollout_logprobs) for c in group.completions] for group, _ in groups]
        return self._learner.logprobs(groups), theirs

    def weights(self, version: int) -> tuple[int, list[WeightBucket]]:
        """Bytes, and the served weights; every rank takes part, and all but rank 0 return none."""
        buckets = self._learner.weight_buckets(version)
        return sum(bucket.manifest.nbytes for bucket in buckets), buckets

    def sft_step(self, batch: Sequence[Conversation], following: Sequence[Conversation]) -> dict[str, float | None]:
        """One SFT step on this rank's share; meanwhile a thread reads and processes the ``following`` one."""
        processed = self._prefetched.result() if self._prefetched else self._process(batch)
        self._prefetched = self._reader.submit(self._process, following) if following else None
        return self._learner.sft_step(processed)

    def _process(self, batch: Sequence[Conversation]) -> list[ProcessedConversation]:
        return [self._processor.process_conversation(c, [load_image(ref) for ref in c.images]) for c in batch]

    def save_checkpoint(self, folder: Path) -> None:
        self._learner.save_checkpoint(folder)

    def load_checkpoint(self, folder: Path) -> None:
        self._learner.load_checkpoint(folder)

    def export(self, folder: Path) -> None:
        """Write a Hugging Face folder; every rank takes part."""
        self._learner.export(folder)


class Recorder:
    """Writes recorded groups; reads references where they lie, so that the driver never holds a group."""

    def __init__(self, log_path: Path) -> None:
        log_to(log_path)

    def write_step(self, path: Path, step: int, ranks: int, *parts: StepLogprobs | pa.Table) -> int:
        """Write rollouts/step-*.parquet; its size in bytes.

        Args:
            parts: first ``ranks`` StepLogprobs, then the groups' tables, in the ranks' order.
        """
        groups = [table_to_groups(table)[0] for table in parts[ranks:]]
        learner = [group for part in parts[:ranks] for group in part.learner]
        # All ranks have a reference policy, or none has.
        ref = [group for part in parts[:ranks] for group in part.ref or ()] or None
        return _write_parquet(step_table(step, groups, learner, ref), path)

    def write_groups(self, path: Path, *tables: pa.Table) -> int:
        """Write an evaluation's groups; the file's size in bytes."""
        groups = [table_to_groups(table)[0] for table in tables]
        return _write_parquet(step_table(0, groups, None, None), path)


def _write_parquet(table: pa.Table, path: Path) -> int:
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.chmod(0o600)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    return path.stat().st_size
