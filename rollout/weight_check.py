"""What has to hold before a single weight is loaded (promise 6).

Role: refuse a push that is corrupted, incomplete or of the wrong shape, while the engine still has its old weights.
Input: mapped buckets, and the names and shapes in the model folder. Output: the list of problems, empty if none.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError
from schemas.weights import BucketManifest, TensorSpec, digest_of

LM_HEAD = "lm_head.weight"
ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes
_EMPTY_DIGEST = digest_of(b"")


def checkpoint_shapes(folder: Path) -> dict[str, list[int]]:
    """Names and shapes of every tensor in a model folder, from the headers of its safetensors files.

    Raises:
        ConfigError: the folder has no safetensors file.
    """
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            # The format: an 8-byte length, then that many bytes of JSON.
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        shapes.update({name: entry["shape"] for name, entry in header.items() if name != "__metadata__"})
    if not shapes:
        raise ConfigError("model", "a folder with safetensors files", folder, "save the model as safetensors")
    return shapes


def problems_of(
    buckets: Sequence[tuple[BucketManifest, NDArray[np.uint8]]],
    expected: Mapping[str, Sequence[int]],
    dtype: str,
    tied_head: bool,
) -> list[str]:
    """Everything that is wrong with a push. No name, shape or digest is trusted.

    Args:
        buckets: manifest and bytes (uint8 [nbytes]) of each bucket.
        expected: name -> shape of every tensor of the model.
        dtype: the served dtype.
        tied_head: the lm_head is the embedding, so its own tensor may be sent or left out.
    """
    specs = [spec for manifest, _ in buckets for spec in manifest.tensors]
    problems = _name_problems([spec.name for spec in specs], expected, tied_head)
    if len({manifest.version for manifest, _ in buckets}) > 1:
        problems.append("buckets of different versions")
    tensors = [(spec, data) for manifest, data in buckets for spec in manifest.tensors]

    def check(tensor: tuple[TensorSpec, NDArray[np.uint8]]) -> str | None:
        spec, data = tensor
        return _tensor_problem(spec, data, expected.get(spec.name), dtype)

    # Hashing releases the GIL and dominates a large push.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(check, tensors))
    problems += [f"{spec.name}: {problem}" for (spec, _), problem in zip(tensors, found, strict=True) if problem]
    return problems


def _name_problems(names: Sequence[str], expected: Iterable[str], tied_head: bool) -> list[str]:
    optional = {LM_HEAD} if tied_head else set()
    problems = []
    if len(set(names)) != len(names):
        problems.append("a tensor is sent twice")
    if missing := set(expected) - set(names) - optional:
        # A layer that gets no weights keeps its old ones without an error.
        problems.append(f"{len(missing)} tensors are missing, e.g. {min(missing)}")
    if unknown := set(names) - set(expected) - optional:
        problems.append(f"{len(unknown)} tensors are not the model's, e.g. {min(unknown)}")
    return problems


def _tensor_problem(spec: TensorSpec, data: NDArray[np.uint8], shape: Sequence[int] | None, dtype: str) -> str | None:
    if spec.dtype != dtype:
        return f"dtype {spec.dtype}, served is {dtype}"
    if shape is not None and list(shape) != list(spec.shape):
        return f"shape {list(spec.shape)}, the model's is {list(shape)}"
    if spec.nbytes != math.prod(spec.shape) * ITEM_SIZES[dtype] or spec.offset + spec.nbytes > data.nbytes:
        return "its bytes don't fit its shape or its bucket"
    # vLLM on CPU empties weights that it repacks: the digest of nothing matches nothing.
    if not spec.digest or spec.digest == _EMPTY_DIGEST:
        return "empty digest"
    if digest_of(data[spec.offset : spec.offset + spec.nbytes]) != spec.digest:
        return "digest differs"
    return None
