"""Weights on their way from the learner to an engine: raw bytes, a manifest, a digest per tensor (promise 6).

Role: the wire format of a push between nodes; inside a node the bytes lie in shared memory.
Made by: learner/weight_sender. Read by: rollout/weight_receiver.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from schemas.base import Noun

ALIGNMENT = 64  # bytes; every tensor starts at a multiple, so that any dtype can be viewed in place


class TensorSpec(Noun):
    """One tensor inside a bucket: its Hugging Face name, torch dtype name, shape, place and digest."""

    name: str
    dtype: str = Field(description="torch dtype without the prefix: float32, bfloat16, ...")
    shape: tuple[int, ...]
    offset: int = Field(ge=0, description="bytes from the bucket's start")
    nbytes: int = Field(ge=0)
    digest: str = Field(min_length=32, max_length=32, description="digest_of its bytes")


class BucketManifest(Noun):
    """What lies in a bucket, and which policy version it belongs to."""

    version: int = Field(ge=0)
    tensors: tuple[TensorSpec, ...]
    nbytes: int = Field(ge=0)


@dataclass(frozen=True)
class WeightBucket:
    """A manifest and its bytes, uint8 [manifest.nbytes]."""

    manifest: BucketManifest
    data: NDArray[np.uint8]


def digest_of(data: memoryview | bytes | NDArray[np.uint8]) -> str:
    """The digest both sides compute over a tensor's raw bytes: blake2b-128, hex, 32 characters."""
    raw = data.data if isinstance(data, np.ndarray) else data
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
