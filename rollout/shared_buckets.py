"""SharedBuckets: the bytes of a push where the engine's process can map them.

Role: between RolloutWorker and the weight receiver in the engine's process. Input: weight buckets.
Output: an anonymous memory file and its description; it vanishes with the last process that holds it, so
neither a failed push nor a killed worker leaves anything behind (a named segment in /dev/shm would).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from schemas.errors import WeightPushError
from schemas.weights import ALIGNMENT, BucketManifest, WeightBucket


class SharedBuckets:
    """A copy of all buckets; within its context ``update_info`` names readable memory.

    Making it copies gigabytes: do that in a thread.

    Args:
        buckets: all buckets of one push.

    Raises:
        WeightPushError: a bucket's bytes are fewer or more than its manifest says, or memory is short.
    """

    def __init__(self, buckets: Sequence[WeightBucket]) -> None:
        offsets: list[int] = []
        size = 0
        for index, bucket in enumerate(buckets):
            if bucket.data.nbytes != bucket.manifest.nbytes:
                raise WeightPushError(
                    f"bucket {index} holds {bucket.data.nbytes} bytes, its manifest says {bucket.manifest.nbytes}"
                )
            offsets.append(size)
            size += -(-bucket.data.nbytes // ALIGNMENT) * ALIGNMENT
        # A file object, which frees the memory also where a cancelled push drops it before its context is entered.
        self._file = os.fdopen(os.memfd_create("overread-push"), "rb")
        try:
            os.posix_fallocate(self._file.fileno(), 0, max(size, 1))
            with mmap.mmap(self._file.fileno(), max(size, 1)) as mapped:
                for offset, bucket in zip(offsets, buckets, strict=True):
                    mapped[offset : offset + bucket.data.nbytes] = np.ascontiguousarray(bucket.data).data
        except OSError as error:
            self._file.close()
            raise WeightPushError(f"no {size} bytes of shared memory for a push: {error.strerror}") from error
        self.update_info: dict[str, Any] = {
            "path": f"/proc/{os.getpid()}/fd/{self._file.fileno()}",
            "offsets": offsets,
            "manifests": [bucket.manifest.model_dump(mode="json") for bucket in buckets],
        }

    def __enter__(self) -> SharedBuckets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def map_buckets(
    path: str, offsets: Sequence[int], manifests: Sequence[dict[str, Any]]
) -> list[tuple[BucketManifest, np.ndarray[tuple[int], np.dtype[np.uint8]]]]:
    """The receiving side of ``SharedBuckets.update_info``: each manifest and its bytes, uint8 [nbytes].

    The mapping is private: what is verified stays what is loaded, and nothing written here reaches the sender.
    """
    with Path(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    buckets = []
    for offset, fields in zip(offsets, manifests, strict=True):
        manifest = BucketManifest.model_validate(fields)
        buckets.append((manifest, np.frombuffer(mapped, dtype=np.uint8, count=manifest.nbytes, offset=offset)))
    return buckets
