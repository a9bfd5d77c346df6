"""The engine's side of a push: vLLM's weight-transfer backend ``overread_shm``.

Role: runs in the engine's process; checks every tensor of every bucket, then loads them through layerwise reload.
Input: ``SharedBuckets.update_info``. Output: the model with new weights, or an error that starts with REFUSED and
a model that still has its old ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from rollout.orphan import die_with_parent
from rollout.shared_buckets import map_buckets
from rollout.tied_head import repack_heads
from rollout.weight_check import problems_of
from schemas.weights import BucketManifest

BACKEND = "overread_shm"
# An error crosses vLLM's process border as its message alone; this start tells a refusal from a broken load.
REFUSED = "push refused"


@dataclass
class ModelTensors(WeightTransferInitInfo):  # type: ignore[misc]
    """Name -> shape of every tensor that a push has to bring."""

    shapes: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class PushedBuckets(WeightTransferUpdateInfo):  # type: ignore[misc]
    """``SharedBuckets.update_info``: a mappable path, and per bucket its offset and manifest."""

    path: str
    offsets: list[int]
    manifests: list[dict[str, Any]]


class SharedMemoryReceiver(WeightTransferEngine[ModelTensors, PushedBuckets]):  # type: ignore[misc]
    """init (once) -> start -> update (one call with all buckets) -> finish."""

    init_info_cls = ModelTensors
    update_info_cls = PushedBuckets
    supports_draft_weight_update = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        die_with_parent()  # here, since this is the first of our code that runs in the engine's process only

    def init_transfer_engine(self, init_info: ModelTensors) -> None:
        """Remember what a whole push is."""
        self._shapes = init_info.shapes

    def start_weight_update(self) -> None:
        """Nothing yet: a layerwise reload empties the layers, so it begins only after the check."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class's, which calls torch.accelerator.synchronize(): that fails without an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: PushedBuckets) -> None:
        """Check all, then load all.

        Raises:
            ValueError: starts with REFUSED; nothing was changed.
        """
        try:
            buckets = map_buckets(update_info.path, update_info.offsets, update_info.manifests)
        except (OSError, ValueError) as error:
            raise ValueError(f"{REFUSED}: its memory or a manifest is unreadable ({type(error).__name__})") from error
        dtype = str(self.model_config.dtype).removeprefix("torch.")
        tied_head = bool(self.model_config.hf_config.tie_word_embeddings)
        problems = problems_of(buckets, self._shapes, dtype, tied_head)
        if problems:
            raise ValueError(f"{REFUSED}: {len(problems)} problems; first: {problems[0]}")
        initialize_layerwise_reload(self.model)
        self.model.load_weights(_tensors(buckets))

    def finish_weight_update(self) -> None:
        """Process what was loaded."""
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            repack_heads(self.model)

    def shutdown(self) -> None:
        """Nothing is held between pushes."""


class ReceiverRegistration:
    """Named as vLLM's ``worker_extension_cls``: importing this module in the engine's process registers the backend."""


def _tensors(buckets: list[tuple[BucketManifest, NDArray[np.uint8]]]) -> Iterator[tuple[str, torch.Tensor]]:
    for manifest, data in buckets:
        for spec in manifest.tensors:
            raw = torch.from_numpy(data[spec.offset : spec.offset + spec.nbytes])
            yield spec.name, raw.view(getattr(torch, spec.dtype)).reshape(spec.shape)


WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryReceiver)
# A dying engine would write its requests, pixel values among them, into the log (promise 9).
logging.getLogger("vllm.logging_utils.dump_input").disabled = True
