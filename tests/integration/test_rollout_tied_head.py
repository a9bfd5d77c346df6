"""The patch of rollout/tied_head.py works, and is still needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def tied_model(tmp_path: Path) -> Iterator[Any]:
    """vLLM's embedding and an lm_head tied to it, as after loading a model, in a world of one rank."""
    import torch
    from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    class TiedModel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = VocabParallelEmbedding(64, 32)
            self.head = ParallelLMHead(64, 32).tie_weights(self.embedding)

        def load(self, weights: torch.Tensor) -> None:
            self.embedding.weight.weight_loader(self.embedding.weight, weights)

    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("cpu"))):
        parallel_state.init_distributed_environment(1, 0, f"file://{tmp_path}/rendezvous", 0, "gloo")
        parallel_state.initialize_model_parallel()
        model = TiedModel()
        record_metadata_for_reloading(model)
        model.load(torch.zeros(64, 32))
        for layer in (model.embedding, model.head):
            layer.quant_method.process_weights_after_loading(layer)
        yield model
        parallel_state.destroy_model_parallel()
        parallel_state.destroy_distributed_environment()


def _reload(model: Any) -> tuple[Any, Any]:
    """Give the model weights of 1 by layerwise reload; a function for the logits that its head makes of a row of 1."""
    import torch
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    initialize_layerwise_reload(model)
    model.load(torch.ones(64, 32))
    finalize_layerwise_reload(model, None)
    row = torch.ones(1, 32)
    return (lambda: model.head.quant_method.apply(model.head, row)), torch.full((1, 64), 32.0)


def test_vllm_leaves_a_tied_head_stale_without_the_patch(tied_model: Any) -> None:
    logits, expected = _reload(tied_model)
    assert not (logits() == expected).all(), "vLLM repacks a tied head now: delete rollout/tied_head.py and this test"


def test_with_the_patch_a_tied_head_computes_with_the_new_weights(tied_model: Any) -> None:
    from rollout.tied_head import repack_heads

    logits, expected = _reload(tied_model)
    repack_heads(tied_model)
    assert (logits() == expected).all()


def test_the_patch_was_checked_with_this_vllm() -> None:
    import vllm

    assert vllm.__version__.startswith("0.32.0")
