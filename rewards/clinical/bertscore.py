"""BERTScore: how well the tokens of two texts match, by their contextual embeddings (Zhang et al. 2020).

Role: the encoder and the greedy matching behind the scorers bertscore and RadCliQ.
Input: texts; distilroberta-base as published. Output: one Embedded a text; precision, recall and F1 of two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.clinical.batches import by_length, padded
from rewards.clinical.tokens import load_tokenizer, tokenise
from rewards.clinical.weights import device_of, fill, find_files, in_use, loaded, not_published
from rewards.references import REFERENCES
from rewards.resources import ModelSettings, Resources

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

NAME = "bertscore"
REPO = "distilbert/distilroberta-base"
WEIGHTS = "model.safetensors"

LAYERS = 5  # bert-score's choice for distilroberta-base: the layer that agrees best with people
MAX_TOKENS = 512  # distilroberta has no more positions

# What random pairs of English sentences get at that layer, from bert-score's table (rescale_baseline/en).
BASELINE_PRECISION = 0.84732
BASELINE_RECALL = 0.84759504
BASELINE_F1 = 0.8473319


class Embedded(NamedTuple):
    """One text.

    Attributes:
        vectors: [tokens, hidden] of length 1, start and end token included.
        blank: the text has no token of its own.
        truncated: tokens at its end that were not read, because the encoder reads 512.
    """

    vectors: NDArray[np.float32]
    blank: bool
    truncated: int


class Agreement(NamedTuple):
    """BERTScore, rescaled: 1 for the same text, 0 for what chance gives, below 0 for less than that."""

    precision: float
    recall: float
    f1: float


# A blank text agrees with nothing. bert-score rescales its raw 0 to -5.6, an outlier that would drown a whole group.
NOTHING_IN_COMMON = Agreement(0.0, 0.0, 0.0)
LOWEST_F1 = (-1.0 - BASELINE_F1) / (1.0 - BASELINE_F1)


def agreement(prediction: Embedded, reference: Embedded) -> Agreement:
    """Greedy matching: every token is matched with the most similar one of the other text.

    Start and end token may be matched with, but are not counted themselves; without idf all others count alike.
    """
    if prediction.blank or reference.blank:
        return NOTHING_IN_COMMON
    cosine_PR = np.clip(prediction.vectors @ reference.vectors.T, -1.0, 1.0)
    precision = float(cosine_PR.max(axis=1)[1:-1].mean(dtype=np.float64))
    recall = float(cosine_PR.max(axis=0)[1:-1].mean(dtype=np.float64))
    lower = min(precision, recall)
    # The harmonic mean is one of positive numbers: with a negative one it may be anything, far below -1.
    f1 = 2.0 * precision * recall / (precision + recall) if lower > 0.0 else lower
    return Agreement(
        _rescaled(precision, BASELINE_PRECISION), _rescaled(recall, BASELINE_RECALL), _rescaled(f1, BASELINE_F1)
    )


def _rescaled(raw: float, baseline: float) -> float:
    return (raw - baseline) / (1.0 - baseline)


class BertScore:
    """The loaded encoder."""

    def __init__(self, network: torch.nn.Module, tokenizer: Tokenizer, device: str, batch_size: int) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self._batch_size = batch_size
        self._pad_id = int(network.config.pad_token_id)

    def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """One Embedded a text, in order. Case matters."""
        # bert-score strips a text and gives its first word the space that every other word has.
        stripped = [text.strip() for text in texts]
        tokens = tokenise(self._tokenizer, [f" {text}" if text else "" for text in stripped], MAX_TOKENS)
        vectors = by_length([entry.ids for entry in tokens], self._batch_size, self._forward)
        return [Embedded(rows, entry.blank, entry.surplus) for rows, entry in zip(vectors, tokens, strict=True)]

    def _forward(self, batch: list[list[int]]) -> list[NDArray[np.float32]]:
        import torch

        ids_BT, mask_BT = (torch.from_numpy(array).to(self._device) for array in padded(batch, self._pad_id))
        with torch.inference_mode():
            hidden_BTH = self._network(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
            unit_BTH = torch.nn.functional.normalize(hidden_BTH, dim=-1).cpu().numpy()
        # Copies: a view would keep its whole batch alive in the reference cache.
        return [np.array(rows[: len(ids)]) for rows, ids in zip(unit_BTH, batch, strict=True)]


def load_bertscore(resources: Resources) -> BertScore:
    """The process's encoder. Raises NotReadyError where a file is missing or not what it should be."""
    return loaded(NAME, resources, _read)


def embed(texts: Sequence[str]) -> list[Embedded]:
    """The embeddings of texts, by the loaded encoder."""
    return in_use(NAME, BertScore).embed(texts)


def reference_embeddings(texts: Sequence[str]) -> list[Embedded]:
    """The embeddings of reference reports, from the reference cache."""
    return REFERENCES.get_many(NAME, texts, embed)


def _read(settings: ModelSettings) -> BertScore:
    files = find_files(NAME, settings, REPO, ["config.json", WEIGHTS, "tokenizer.json"])
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import RobertaConfig, RobertaModel

    device = device_of(NAME, settings)
    config = RobertaConfig.from_json_file(files["config.json"])
    surplus = range(LAYERS, config.num_hidden_layers)
    config.num_hidden_layers = LAYERS  # the layers above are not read
    network = RobertaModel(config, add_pooling_layer=False)
    source = files[WEIGHTS]
    try:
        state = load_file(source)
    except SafetensorError as error:
        raise not_published(NAME, source) from error
    # It was saved with its language model's head.
    state = {name.removeprefix("roberta."): tensor for name, tensor in state.items()}
    above = tuple(f"encoder.layer.{index}." for index in surplus)
    fill(NAME, network, state, source, unused=("lm_head.", "pooler.", "embeddings.position_ids", *above))
    return BertScore(network, load_tokenizer(files["tokenizer.json"]), device, settings.batch_size)
