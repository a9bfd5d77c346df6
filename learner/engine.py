"""Learner: one DeepSpeed rank of the policy's training.

Role: groups in, one or more optimiser updates, new weights out; also the warm start (SFT).
Input: this rank's share of a step's groups or conversations. Output: StepResult, WeightBuckets, checkpoints, exports.
Every public method but ``close`` is collective: all ranks call it together.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learner import checkpoints
from learner.batching import (
    Group,
    GroupBatch,
    check_group,
    conversation_rows,
    empty_batch,
    empty_rows,
    group_batch,
    row_length,
    split_by_completion,
)
from learner.collectives import sum_over_ranks
from learner.deepspeed_start import device_of_rank, start_engine, start_process_group
from learner.losses import policy_loss
from learner.planning import UpdatePlan, members_of_updates, plan_updates
from learner.policy import Policy, load_model
from learner.schedule import learning_rate_at
from learner.settings import LearnerSettings
from learner.step_metrics import UpdateSums, finite, token_metrics, update_metrics
from learner.weight_sender import weight_buckets
from schemas.errors import LearnerError
from schemas.group import RolloutGroup
from schemas.processed import ProcessedConversation
from schemas.weights import WeightBucket


@dataclass(frozen=True)
class StepResult:
    """What a training step yields on each rank.

    Attributes:
        metrics: the learner's keys of metrics.jsonl, over all ranks, plus ``lr`` and ``updates_skipped``; None where
            the step has no such number.
        learner_logprobs: of this rank's groups, per group, completion and token, before the step's first update.
        ref_logprobs: likewise of the reference policy; None without one.
    """

    metrics: dict[str, float | None]
    learner_logprobs: list[list[list[float]]]
    ref_logprobs: list[list[list[float]]] | None


class Learner:
    """One rank. All ranks are made with the same arguments but ``rank``.

    Args:
        settings: the recipe's learner section.
        model_path: Hugging Face folder or hub name of the start model (and of the KL reference).
        rank: 0 to world_size - 1; rank r is given groups r, r + world_size, ... of a step.
        world_size: number of ranks; MASTER_ADDR and MASTER_PORT say where they meet.
        forbidden_token_ids: ids that sampling forbids (schemas: promise 10).
        total_steps: length of the run in steps, for the learning-rate schedule.
        seed: of every random generator.
    """

    def __init__(
        self,
        settings: LearnerSettings,
        model_path: str,
        *,
        rank: int,
        world_size: int,
        forbidden_token_ids: tuple[int, ...],
        total_steps: int,
        seed: int,
    ) -> None:
        self._settings = settings
        self._model_path = model_path
        self._rank = rank
        self._world_size = world_size
        self._total_updates = total_steps * settings.updates_per_step
        self._updates_done = 0
        self._last_rate = 0.0
        self._device = device_of_rank()
        _make_deterministic(seed)
        deepspeed = start_process_group(rank, world_size)
        dtype = _dtype(settings, self._device)
        policy = Policy(load_model(model_path, dtype), forbidden_token_ids)
        if settings.gradient_checkpointing:
            policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._facts = policy.facts()
        self._reference: Policy | None = None
        if settings.kl_coefficient > 0.0:
            self._reference = Policy(load_model(model_path, dtype), forbidden_token_ids)
            self._reference.requires_grad_(False).eval().to(self._device)
        self._engine = start_engine(deepspeed, policy, settings, dtype)
        self._engine.train()

    @property
    def policy(self) -> Policy:
        """The module under training; under ZeRO-3 its parameters are sharded."""
        policy: Policy = self._engine.module
        return policy

    def train_step(self, groups: Sequence[Group], version: int) -> StepResult:
        """Trains on this rank's share of a step: ``updates_per_step`` updates over equal mini-batches.

        Args:
            groups: this rank's groups, rewards and advantages filled in; a completion without an advantage is masked.
            version: policy version of the weights before the step.

        Raises:
            LearnerError: a group fails its check, or an update has no token to train on; nothing is updated then.
        """
        start_s = time.perf_counter()
        for group, processed in groups:
            check_group(group, processed, self._facts)
        plans = self._plans(groups, self._settings.updates_per_step)
        token_counts = sum_over_ranks([_trained_tokens(groups, plan) for plan in plans], self._device)
        if 0.0 in token_counts:
            raise LearnerError(f"update {token_counts.index(0.0)} of the step has no token with an advantage")
        logprobs: dict[int, Tensor] = {}
        ref_logprobs: dict[int, Tensor] = {}
        updates = []
        for plan in plans[1:]:
            # Later mini-batches are trained on after an update: their numbers before the step need their own forward.
            logprobs |= self._logprobs(groups, plan)
        for number, (plan, tokens) in enumerate(zip(plans, token_counts, strict=True)):
            sums, trained_logprobs, trained_ref_logprobs = self._update(groups, plan, tokens)
            updates.append(sums)
            logprobs |= trained_logprobs if number == 0 else {}
            ref_logprobs |= trained_ref_logprobs
        own_groups = [group for group, _ in groups]
        metrics = update_metrics(updates, self._device) | token_metrics(own_groups, logprobs, version, self._device)
        tokens = sum_over_ranks([float(sum(group.token_count for group in own_groups))], self._device)[0]
        metrics |= {"lr": self._last_rate, "learner/tokens_per_s": tokens / (time.perf_counter() - start_s)}
        return StepResult(
            metrics=metrics,
            learner_logprobs=_per_completion(logprobs, own_groups),
            ref_logprobs=_per_completion(ref_logprobs, own_groups) if self._reference is not None else None,
        )

    def logprobs(self, groups: Sequence[Group]) -> list[list[list[float]]]:
        """Log-probabilities of this rank's groups under the present weights, per group, completion and token."""
        for group, processed in groups:
            check_group(group, processed, self._facts)
        (plan,) = self._plans(groups, 1)
        return _per_completion(self._logprobs(groups, plan), [group for group, _ in groups])

    def sft_step(self, batch: Sequence[ProcessedConversation]) -> dict[str, float | None]:
        """One supervised update on this rank's share of a batch: cross-entropy, mean over the answers' tokens.

        Returns:
            loss, grad_norm, lr, updates_skipped, learner/tokens_per_s (all tokens, not only answers), over all ranks.

        Raises:
            LearnerError: a conversation doesn't fit its pictures or its mask, or there is no answer token.
        """
        start_s = time.perf_counter()
        lengths = [len(c.prompt.input_ids_P) for c in batch]
        asked = [int(c.loss_mask_P.sum()) for c in batch]
        everything = [list(range(len(batch)))]
        (plan,) = plan_updates(everything, lengths, asked, self._settings.micro_batch_tokens, self._device)
        answers, tokens = sum_over_ranks([float(sum(asked)), float(sum(lengths))], self._device)
        if answers == 0.0:
            raise LearnerError("the SFT batch has no answer token")
        loss_sum = 0.0
        for number, indices in enumerate(plan.micro_batches, start=1):
            chosen = [batch[i] for i in indices]
            rows = conversation_rows(chosen, self._facts) if chosen else empty_rows(self._facts)
            loss = -self._engine(rows.to(self._device), False, plan.head_slices).sum()
            self._backward(loss * (self._world_size / answers), last=number == len(plan.micro_batches))
            loss_sum += float(loss.detach())
        grad_norm, applied = self._step()
        loss_sum = sum_over_ranks([loss_sum], self._device)[0]
        return {
            "loss": finite(loss_sum / answers),
            "grad_norm": finite(grad_norm),
            "lr": self._last_rate,
            "updates_skipped": float(not applied),
            "learner/tokens_per_s": tokens / (time.perf_counter() - start_s),
        }

    def weight_buckets(self, version: int) -> list[WeightBucket]:
        """All weights under their checkpoint's names in the served dtype; on rank 0, an empty list on the others."""
        return weight_buckets(self.policy, version, self._rank)

    def save_checkpoint(self, folder: Path) -> None:
        """Parameters, optimiser, update counter and random states into ``folder``, fsynced; the caller renames it."""
        checkpoints.save(self._engine, folder, self._rank, self._updates_done)

    def load_checkpoint(self, folder: Path) -> None:
        """The inverse of ``save_checkpoint``. Raises LearnerError where it doesn't fit this run."""
        self._updates_done = checkpoints.load(self._engine, folder, self._rank)

    def export(self, folder: Path) -> None:
        """A Hugging Face folder that transformers and the engine load; atomic. Raises DataError if it exists."""
        checkpoints.export(self.policy, folder, self._model_path, self._rank)

    def close(self) -> None:
        """Leaves the process group."""
        torch.distributed.destroy_process_group()

    def _plans(self, groups: Sequence[Group], updates: int) -> list[UpdatePlan]:
        total = int(sum_over_ranks([float(len(groups))], self._device)[0])
        return plan_updates(
            members_of_updates(len(groups), updates, rank=self._rank, world_size=self._world_size, total=total),
            lengths=[row_length(*group) for group in groups],
            asked=[group.token_count for group, _ in groups],
            budget=self._settings.micro_batch_tokens,
            device=self._device,
        )

    def _batch(self, groups: Sequence[Group], indices: Sequence[int]) -> GroupBatch:
        batch = group_batch(groups, indices, self._facts) if indices else empty_batch(self._facts)
        return batch.to(self._device)

    def _logprobs(self, groups: Sequence[Group], plan: UpdatePlan) -> dict[int, Tensor]:
        """Per group index its tokens' log-probabilities, on the CPU, without gradient."""
        noted: dict[int, Tensor] = {}
        with torch.no_grad():
            for indices in plan.micro_batches:
                batch = self._batch(groups, indices)
                noted |= _by_group(self._engine(batch.rows, True, plan.head_slices), groups, indices)
        return noted

    def _update(
        self, groups: Sequence[Group], plan: UpdatePlan, tokens: float
    ) -> tuple[UpdateSums, dict[int, Tensor], dict[int, Tensor]]:
        """One optimiser update; ``tokens`` is the global count that the loss is a mean over.

        Returns:
            The sums, and per group index the log-probabilities that the loss was taken at, of policy and reference.
        """
        settings = self._settings
        logprobs: dict[int, Tensor] = {}
        ref_logprobs: dict[int, Tensor] = {}
        sums_3 = torch.zeros(3, dtype=torch.float64, device=self._device)
        for number, indices in enumerate(plan.micro_batches, start=1):
            batch = self._batch(groups, indices)
            logprobs_T = self._engine(batch.rows, True, plan.head_slices)
            ref_logprobs_T = self._ref_logprobs(batch, plan.head_slices)
            loss = policy_loss(
                logprobs_T,
                batch.tokens.rollout_logprobs_T,
                batch.tokens.advantages_T,
                batch.tokens.loss_mask_T,
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                kl_coefficient=settings.kl_coefficient,
                ref_logprobs_T=ref_logprobs_T,
            )
            # DeepSpeed averages gradients over the ranks; the world size turns that into a sum over all tokens.
            self._backward(loss.loss_sum * (self._world_size / tokens), last=number == len(plan.micro_batches))
            sums_3 += torch.stack([loss.loss_sum.detach(), loss.kl_sum, loss.clipped_sum]).double()
            logprobs |= _by_group(logprobs_T, groups, indices)
            if ref_logprobs_T is not None:
                ref_logprobs |= _by_group(ref_logprobs_T, groups, indices)
        grad_norm, applied = self._step()
        loss_sum, kl_sum, clipped_sum = sums_3.tolist()
        return UpdateSums(loss_sum, kl_sum, clipped_sum, tokens, grad_norm, applied), logprobs, ref_logprobs

    def _ref_logprobs(self, batch: GroupBatch, head_slices: int) -> Tensor | None:
        if self._reference is None:
            return None
        with torch.no_grad():
            ref_logprobs_T: Tensor = self._reference(batch.rows, True, head_slices)
        return ref_logprobs_T

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        """Adds the gradient of one micro-batch; ``last`` starts what the stage reduces at the end."""
        if not loss.isfinite():
            # Its gradient may still be finite; NaN makes DeepSpeed skip the whole update on every rank.
            loss = loss * torch.nan
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def _step(self) -> tuple[float, bool]:
        """Applies the update; its global gradient norm before clipping, and whether DeepSpeed applied it."""
        self._last_rate = learning_rate_at(
            self._updates_done,
            peak=self._settings.learning_rate,
            schedule=self._settings.lr_schedule,
            warmup_updates=self._settings.warmup_steps * self._settings.updates_per_step,
            total_updates=self._total_updates,
        )
        for parameters in self._engine.optimizer.param_groups:
            parameters["lr"] = self._last_rate
        self._engine.step()
        self._updates_done += 1
        return float(self._engine.get_global_grad_norm()), bool(self._engine.was_step_applied())


def _trained_tokens(groups: Sequence[Group], plan: UpdatePlan) -> float:
    """Tokens of this rank that the update's loss is taken on."""
    chosen = [groups[i][0] for i in plan.rows]
    return float(sum(len(c.token_ids) for group in chosen for c in group.completions if c.advantage is not None))


def _by_group(logprobs_T: Tensor, groups: Sequence[Group], indices: Sequence[int]) -> dict[int, Tensor]:
    parts = logprobs_T.detach().cpu().split([groups[i][0].token_count for i in indices])
    return dict(zip(indices, parts, strict=True))


def _per_completion(logprobs: dict[int, Tensor], groups: Sequence[RolloutGroup]) -> list[list[list[float]]]:
    return [split_by_completion(logprobs[index], group) for index, group in enumerate(groups)]


def _dtype(settings: LearnerSettings, device: torch.device) -> torch.dtype:
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype


def _make_deterministic(seed: int) -> None:
    """Same seed and batch, same numbers bit for bit on one machine (promise 7)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is only deterministic with it
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every tensor
