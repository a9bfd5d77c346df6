"""What a model reads: token ids with expanded picture tokens, pixel values, grid (promise 10).

Role: the output of the one processing of a prompt; it travels with its group to the learner.
Made by: rollout/processor. Read by: the engine and learner/batching, which both check the fingerprint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ProcessedPrompt:
    """One prompt as tensors.

    Attributes:
        input_ids_P: prompt token ids, picture placeholders expanded, int32 [P].
        pixel_values_ND: patches of all pictures, float32 [N, D]; N = 0 without pictures.
        image_grid_thw_I3: patch grid (time, height, width) per picture, int64 [I, 3].
    """

    input_ids_P: NDArray[np.int32]
    pixel_values_ND: NDArray[np.float32]
    image_grid_thw_I3: NDArray[np.int64]

    def fingerprint(self) -> str:
        """Hash of everything that the model reads: ids, grid, pixels. Hex, 32 characters."""
        digest = hashlib.blake2b(digest_size=16)
        for array, dtype in (
            (self.input_ids_P, "<i4"),
            (self.image_grid_thw_I3, "<i8"),
            (self.pixel_values_ND, "<f4"),
        ):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype=dtype).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ProcessedConversation:
    """One SFT example as tensors: the whole conversation's ids and which of them the loss is taken on.

    Attributes:
        loss_mask_P: True where a token belongs to an answer (its end-of-turn token included), bool [P].
    """

    prompt: ProcessedPrompt
    loss_mask_P: NDArray[np.bool_]
