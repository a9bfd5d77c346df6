"""Weights on their way out: HF names, served dtype, bounded buckets, a digest per tensor (promise 6).

Input: the DeepSpeed engine's policy, whole or sharded by ZeRO-3. Output: WeightBuckets on rank 0.
Tied weights go once, under the name that the checkpoint has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.policy import Policy
from schemas.weights import ALIGNMENT, BucketManifest, TensorSpec, WeightBucket, digest_of

BUCKET_BYTES = 256 << 20  # a bucket holds at least one tensor, however large


def checkpoint_parameters(policy: Policy) -> list[tuple[str, torch.nn.Parameter]]:
    """(Hugging Face name, parameter) in the model's order; a tied parameter appears once, as in its checkpoint."""
    return [(name.removeprefix(Policy.PREFIX), parameter) for name, parameter in policy.named_parameters()]


def _numbers(parameter: torch.nn.Parameter) -> int:
    """Numbers in the whole parameter; under ZeRO-3 the local tensor is empty and DeepSpeed keeps the size."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _bucket_plan(parameters: list[tuple[str, torch.nn.Parameter]]) -> list[list[tuple[str, torch.nn.Parameter]]]:
    plan: list[list[tuple[str, torch.nn.Parameter]]] = []
    room = 0
    for name, parameter in parameters:
        nbytes = _aligned(_numbers(parameter) * parameter.element_size())
        if not plan or nbytes > room:
            plan.append([])
            room = BUCKET_BYTES
        plan[-1].append((name, parameter))
        room -= nbytes
    return plan


def gathered(policy: Policy) -> Iterator[list[tuple[str, Tensor]]]:
    """Collective: whole parameters, a bucket at a time, valid until the next bucket is asked for."""
    for bucket in _bucket_plan(checkpoint_parameters(policy)):
        sharded = [p for _, p in bucket if hasattr(p, "ds_id")]
        with _whole(sharded):
            yield [(name, parameter.detach()) for name, parameter in bucket]


def _whole(sharded: list[torch.nn.Parameter]) -> AbstractContextManager[None]:
    """Inside, the parameters that ZeRO-3 sharded are whole."""
    if not sharded:
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(sharded)
    return context


def weight_buckets(policy: Policy, version: int, rank: int) -> list[WeightBucket]:
    """Collective: all weights as buckets on rank 0, nothing on the others."""
    buckets = []
    for tensors in gathered(policy):
        if rank == 0:
            buckets.append(_bucket(tensors, version))
    return buckets


def _bucket(tensors: list[tuple[str, Tensor]], version: int) -> WeightBucket:
    specs: list[TensorSpec] = []
    parts: list[tuple[int, NDArray[np.uint8]]] = []
    offset = 0
    for name, tensor in tensors:
        raw: NDArray[np.uint8] = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        specs.append(
            TensorSpec(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                offset=offset,
                nbytes=raw.nbytes,
                digest=digest_of(raw),
            )
        )
        parts.append((offset, raw))
        offset += _aligned(raw.nbytes)
    data = np.zeros(offset, dtype=np.uint8)
    for start, raw in parts:
        data[start : start + raw.nbytes] = raw
    return WeightBucket(BucketManifest(version=version, tensors=tuple(specs), nbytes=offset), data)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def whole_state(policy: Policy, rank: int) -> dict[str, Any]:
    """Collective: a full copy of the weights in main memory on rank 0, an empty dict on the others."""
    state: dict[str, Any] = {}
    for tensors in gathered(policy):
        if rank == 0:
            state.update({name: tensor.cpu().clone() for name, tensor in tensors})
    return state
