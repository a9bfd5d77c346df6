from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from learner.policy import Policy
from learner.weight_sender import weight_buckets
from schemas.weights import ALIGNMENT, digest_of


def test_buckets_hold_the_checkpoints_tensors_bit_for_bit_under_its_names(policy: Policy, model_path: str):
    sent = {}
    for bucket in weight_buckets(policy, 3, 0):
        assert bucket.manifest.version == 3
        assert bucket.manifest.nbytes == bucket.data.nbytes
        for spec in bucket.manifest.tensors:
            raw = bucket.data[spec.offset : spec.offset + spec.nbytes]
            assert spec.offset % ALIGNMENT == 0
            assert digest_of(raw) == spec.digest
            assert spec.name not in sent
            sent[spec.name] = torch.from_numpy(raw.copy()).view(getattr(torch, spec.dtype)).reshape(spec.shape)
    with safe_open(Path(model_path) / "model.safetensors", framework="pt") as checkpoint:
        stored = {name: checkpoint.get_tensor(name) for name in checkpoint.keys()}  # noqa: SIM118
    assert sorted(sent) == sorted(stored)
    assert "lm_head.weight" not in sent
    for name, tensor in stored.items():
        assert torch.equal(sent[name], tensor), name


def test_a_bucket_stays_within_its_bound_unless_one_tensor_is_larger(policy: Policy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("learner.weight_sender.BUCKET_BYTES", 100_000)
    buckets = weight_buckets(policy, 1, 0)
    assert len(buckets) > 3
    for bucket in buckets:
        assert bucket.manifest.nbytes <= 100_000 or len(bucket.manifest.tensors) == 1


def test_bfloat16_weights_travel_as_bfloat16(policy: Policy, model_path: str):
    from learner.policy import load_model

    half = Policy(load_model(model_path, torch.bfloat16), ())
    specs = [spec for bucket in weight_buckets(half, 0, 0) for spec in bucket.manifest.tensors]
    assert {spec.dtype for spec in specs} == {"bfloat16"}
    assert sum(spec.nbytes for spec in specs) == 2 * sum(p.numel() for p in policy.parameters())


def test_only_rank_zero_holds_buckets(policy: Policy):
    assert weight_buckets(policy, 0, 1) == []
