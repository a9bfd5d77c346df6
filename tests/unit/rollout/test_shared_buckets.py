"""A push's bytes arrive unchanged and leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rollout.shared_buckets import SharedBuckets, map_buckets
from schemas.errors import WeightPushError
from schemas.weights import BucketManifest, WeightBucket


def _buckets() -> list[WeightBucket]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, size, dtype=np.uint8) for size in (1, 64, 100_001)]
    return [WeightBucket(BucketManifest(version=3, tensors=(), nbytes=data.nbytes), data) for data in arrays]


def test_bytes_and_manifests_arrive_unchanged() -> None:
    buckets = _buckets()
    with SharedBuckets(buckets) as shared:
        received = map_buckets(**shared.update_info)
    for (manifest, data), bucket in zip(received, buckets, strict=True):
        assert manifest == bucket.manifest
        np.testing.assert_array_equal(data, bucket.data)


def test_what_the_receiver_writes_stays_its_own() -> None:
    with SharedBuckets(_buckets()) as shared:
        map_buckets(**shared.update_info)[0][1][:] = 0
        assert map_buckets(**shared.update_info)[0][1][0] == _buckets()[0].data[0]


def test_the_memory_is_gone_after_a_failed_push() -> None:
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a count of links)
    with pytest.raises(RuntimeError), SharedBuckets(_buckets()) as shared:
        raise RuntimeError
    assert not Path(shared.update_info["path"]).exists()
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208


def test_a_bucket_that_is_not_as_long_as_it_says_is_refused() -> None:
    (bucket, *_) = _buckets()
    wrong = WeightBucket(bucket.manifest.model_copy(update={"nbytes": 2}), bucket.data)
    with pytest.raises(WeightPushError, match="manifest says 2"), SharedBuckets([wrong]):
        pass
