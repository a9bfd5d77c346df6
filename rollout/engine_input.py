"""From a ProcessedPrompt to what vLLM's engine takes, without processing anything again (promise 10).

Role: hands our ids and pixel values to the engine as an already rendered input. Input: ProcessedPrompt.
Output: vLLM's EngineInput; a picture is known to vLLM's caches by the hash of its patches and grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchFeature
from vllm.inputs.engine import mm_input, tokens_input
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange

from schemas.errors import RolloutError
from schemas.processed import ProcessedPrompt
from schemas.weights import digest_of


@dataclass(frozen=True)
class EnginePrompt:
    """A prompt and its pictures in vLLM's terms.

    Attributes:
        token_ids: prompt token ids with expanded picture tokens.
        hashes: one per picture.
        pictures: vLLM's MultiModalKwargsItem per picture.
        places: where each picture's tokens stand in the prompt.
    """

    token_ids: list[int]
    hashes: list[str]
    pictures: list[Any]
    places: list[PlaceholderRange]

    def render(self, pictures: list[Any]) -> Any:
        """vLLM's EngineInput; a picture that the engine already holds may be None."""
        if not self.hashes:
            return tokens_input(self.token_ids)
        return mm_input(self.token_ids, {"image": pictures}, {"image": self.hashes}, {"image": self.places})


def engine_prompt(processed: ProcessedPrompt, image_token_id: int, merge_size: int) -> EnginePrompt:
    """The engine's view of a processed prompt: same ids, same pixel buffer.

    Args:
        processed: what the one processing made.
        image_token_id: the id that stands once per merged patch.
        merge_size: patches a side that become one token.

    Raises:
        RolloutError: ``prompt_mismatch`` if ids and grid disagree on the number of picture tokens.
    """
    grid_I3 = processed.image_grid_thw_I3
    patches_I = grid_I3.prod(axis=1)
    lengths_I = patches_I // merge_size**2
    places = _places(processed.input_ids_P, lengths_I, image_token_id)
    token_ids = processed.input_ids_P.tolist()
    if not places:
        return EnginePrompt(token_ids, [], [], [])
    items = MultiModalKwargsItems.from_hf_inputs(
        BatchFeature(
            {
                "pixel_values": torch.from_numpy(processed.pixel_values_ND),
                "image_grid_thw": torch.from_numpy(grid_I3),
            }
        ),
        # The fields that vLLM's own Qwen3-VL processor declares.
        {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", torch.from_numpy(patches_I)),
            "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        },
    )
    ends_I = np.cumsum(patches_I)
    hashes = [
        digest_of(grid_I3[i].tobytes() + processed.pixel_values_ND[ends_I[i] - patches_I[i] : ends_I[i]].tobytes())
        for i in range(len(grid_I3))
    ]
    return EnginePrompt(token_ids, hashes, list(items["image"]), places)


def _places(
    input_ids_P: NDArray[np.int32], lengths_I: NDArray[np.int64], image_token_id: int
) -> list[PlaceholderRange]:
    positions = np.flatnonzero(input_ids_P == image_token_id)
    if len(positions) != lengths_I.sum():
        raise RolloutError(
            "prompt_mismatch", f"{len(positions)} picture tokens in the prompt, {lengths_I.sum()} in its grid"
        )
    starts_I = np.cumsum(lengths_I) - lengths_I
    return [PlaceholderRange(offset=int(positions[s]), length=int(n)) for s, n in zip(starts_I, lengths_I, strict=True)]
