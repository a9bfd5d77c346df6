"""A patch for vLLM 0.32.0 on CPU: after a reload, a tied lm_head computes with the old weights.

Role: repack the heads after a weight update. Input: the engine's model. Output: none.
Why: on CPU vLLM prepacks linear weights. A tied lm_head receives no weights of its own in a layerwise reload, so its
packed copy stays old (log-probabilities 0.4 off, no error).
Remove when: tests/integration/test_rollout_tied_head.py::test_vllm_leaves_a_tied_head_stale_without_the_patch fails.
"""

from __future__ import annotations

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding


def repack_heads(model: torch.nn.Module) -> None:
    """Pack every embedding and lm_head again, from the weights that it holds now."""
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding):
            layer.quant_method.process_weights_after_loading(layer)
