"""Policy: a Qwen3-VL that answers with log-probabilities of asked tokens.

Role: the module that DeepSpeed wraps. Input: Rows. Output: one log-probability per asked token, float32 [T].
The language head runs on the asked positions only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learner.batching import ModelFacts, Rows
from learner.losses import token_logprobs
from schemas.errors import DataError


class Policy(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """Wraps the Hugging Face model; parameter names are its own behind the prefix ``model.``."""

    PREFIX = "model."

    def __init__(self, model: Any, forbidden_token_ids: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        # Not a buffer: DeepSpeed would cast and broadcast it.
        self._forbidden_ids = torch.tensor(sorted(set(forbidden_token_ids)), dtype=torch.int64)
        self._nothing_forbidden = torch.zeros(0, dtype=torch.int64)

    def facts(self) -> ModelFacts:
        """What batching must know about this model."""
        config = self.model.config
        vision = config.vision_config
        return ModelFacts(
            image_token_id=config.image_token_id,
            merge_size=vision.spatial_merge_size,
            patch_width=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
            padding_id=min({0, 1, 2} - {config.image_token_id, config.video_token_id}),
            forbidden_ids=frozenset(self._forbidden_ids.tolist()),
            rope_index=self.model.model.get_rope_index,
        )

    def forward(self, rows: Rows, forbid: bool, head_slices: int = 1) -> Tensor:
        """Log-probabilities of ``rows.targets_T``, float32 [T].

        Args:
            rows: on the model's device.
            forbid: leave the forbidden ids out of the softmax, as sampling did (GRPO); False for plain SFT.
            head_slices: above 1 the head runs in that many slices, recomputed in backward, to bound the logits' memory.
        """
        hidden_GLD = self.model.model(
            input_ids=rows.input_ids_GL,
            attention_mask=rows.mask_G1LL,
            position_ids=rows.positions_3GL,
            mm_token_type_ids=rows.token_types_GL,
            pixel_values=rows.pixel_values_ND,
            image_grid_thw=rows.image_grid_thw_I3,
            use_cache=False,
        ).last_hidden_state
        hidden_TD = hidden_GLD.flatten(0, 1).index_select(0, rows.predictors_T)
        forbidden = (self._forbidden_ids if forbid else self._nothing_forbidden).to(hidden_TD.device)
        if head_slices == 1:
            return self._head(hidden_TD, rows.targets_T, rows.temperature_T, forbidden)
        slices = zip(
            *(t.tensor_split(head_slices) for t in (hidden_TD, rows.targets_T, rows.temperature_T)), strict=True
        )
        return torch.cat([checkpoint(self._head, *part, forbidden, use_reentrant=False) for part in slices])

    def _head(self, hidden_TD: Tensor, targets_T: Tensor, temperature_T: Tensor, forbidden: Tensor) -> Tensor:
        return token_logprobs(self.model.lm_head(hidden_TD), targets_T, temperature_T, forbidden)


def load_model(model_path: str, dtype: torch.dtype) -> Any:
    """The Hugging Face model of a folder or hub name, on the CPU, in ``dtype``.

    Raises DataError where the folder is missing or holds another architecture.
    """
    from transformers import AutoConfig, Qwen3VLForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    if not Path(model_path).is_dir() and ("/" not in model_path or model_path.startswith(("/", "."))):
        raise DataError("model", "must be a folder or a hub name", model_path, "give an existing model folder")
    config = AutoConfig.from_pretrained(model_path)
    if config.model_type != "qwen3_vl":
        raise DataError("model", "must be a Qwen3-VL (model_type qwen3_vl)", config.model_type, "choose a Qwen3-VL")
    # SDPA takes the 4-D mask of group_attention as it is; flash attention would refuse it.
    return Qwen3VLForConditionalGeneration.from_pretrained(model_path, dtype=dtype, attn_implementation="sdpa")
