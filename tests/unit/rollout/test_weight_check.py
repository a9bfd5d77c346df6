"""Nothing wrong with a push goes unnoticed before loading."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rollout.weight_check import checkpoint_shapes, problems_of
from schemas.errors import ConfigError
from schemas.weights import BucketManifest, TensorSpec, digest_of

Bucket = tuple[BucketManifest, NDArray[np.uint8]]
SHAPES = {"a.weight": [2, 3], "b.bias": [4]}


def _bucket(tensors: dict[str, NDArray[np.float32]], version: int = 1) -> Bucket:
    specs, data = [], b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        specs.append(
            TensorSpec(
                name=name, dtype="float32", shape=tensor.shape, offset=len(data), nbytes=len(raw), digest=digest_of(raw)
            )
        )
        data += raw
    manifest = BucketManifest(version=version, tensors=tuple(specs), nbytes=len(data))
    return manifest, np.frombuffer(data, dtype=np.uint8).copy()


def _good() -> list[Bucket]:
    rng = np.random.default_rng(0)
    return [_bucket({name: rng.normal(size=shape).astype(np.float32)}) for name, shape in SHAPES.items()]


def _with_spec(bucket: Bucket, **fields: object) -> Bucket:
    manifest, data = bucket
    spec = TensorSpec.model_construct(**{**dict(manifest.tensors[0]), **fields})
    return manifest.model_copy(update={"tensors": (spec,)}), data


def test_a_whole_push_has_no_problem() -> None:
    assert problems_of(_good(), SHAPES, "float32", tied_head=False) == []


@given(bucket=st.integers(0, 1), position=st.integers(0, 15), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(bucket: int, position: int, bit: int) -> None:
    buckets = _good()
    buckets[bucket][1][position] ^= 1 << bit
    (problem,) = problems_of(buckets, SHAPES, "float32", tied_head=False)
    assert problem == f"{list(SHAPES)[bucket]}: digest differs"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"digest": ""}, "empty digest"),
        ({"digest": digest_of(b"")}, "empty digest"),
        ({"digest": digest_of(b"other")}, "digest differs"),
        ({"dtype": "bfloat16"}, "dtype bfloat16, served is float32"),
        ({"shape": (3, 2)}, "shape [3, 2], the model's is [2, 3]"),
        ({"nbytes": 20}, "its bytes don't fit its shape or its bucket"),
        ({"offset": 4}, "its bytes don't fit its shape or its bucket"),
    ],
)
def test_a_wrong_manifest_is_found(fields: dict[str, object], expected: str) -> None:
    first, second = _good()
    problems = problems_of([_with_spec(first, **fields), second], SHAPES, "float32", tied_head=False)
    assert problems == [f"a.weight: {expected}"]


def test_missing_unknown_and_double_tensors_are_found() -> None:
    first, second = _good()
    assert "1 tensors are missing, e.g. b.bias" in problems_of([first], SHAPES, "float32", tied_head=False)
    stranger = _bucket({"c": np.zeros(1, dtype=np.float32)})
    assert "1 tensors are not the model's, e.g. c" in problems_of(
        [first, second, stranger], SHAPES, "float32", tied_head=False
    )
    assert "a tensor is sent twice" in problems_of([first, second, second], SHAPES, "float32", tied_head=False)


def test_buckets_of_two_versions_are_found() -> None:
    first, second = _good()
    other = (second[0].model_copy(update={"version": 2}), second[1])
    assert problems_of([first, other], SHAPES, "float32", tied_head=False) == ["buckets of different versions"]


@pytest.mark.parametrize(("tied_head", "problems"), [(True, 0), (False, 1)])
def test_only_a_tied_head_may_be_left_out_or_sent_along(tied_head: bool, problems: int) -> None:
    head = _bucket({"lm_head.weight": np.ones((2, 3), dtype=np.float32)})
    assert len(problems_of([*_good(), head], SHAPES, "float32", tied_head)) == problems
    untied = {**SHAPES, "lm_head.weight": [2, 3]}
    assert len(problems_of(_good(), untied, "float32", tied_head)) == problems


def test_shapes_are_read_from_every_safetensors_file(tmp_path: Path) -> None:
    for number, (name, shape) in enumerate(SHAPES.items()):
        header = {"__metadata__": {"format": "pt"}, name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        raw = json.dumps(header).encode()
        (tmp_path / f"model-{number}.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    assert checkpoint_shapes(tmp_path) == SHAPES


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="safetensors"):
        checkpoint_shapes(tmp_path)
