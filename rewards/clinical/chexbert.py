"""CheXbert: the 14 CheXpert observations of a report and its embedding, by a BERT (Smit et al. 2020).

Role: the labeller behind chexbert_f1, and the embedding behind chexbert_similarity and RadCliQ.
Input: reports; ``chexbert.pth`` as published, and BERT's own config and tokenizer. Output: one Finding a report.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.clinical.batches import by_length, padded
from rewards.clinical.tokens import load_tokenizer, tokenise
from rewards.clinical.weights import device_of, every, fill, find_files, in_use, loaded, not_published
from rewards.references import REFERENCES
from rewards.resources import ModelSettings, Resources

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

NAME = "chexbert"
REPO = "StanfordAIMI/RRG_scorers"
BERT_REPO = "google-bert/bert-base-uncased"
CHECKPOINT = "chexbert.pth"

# What the checkpoint's heads stand for, in their order. The last one has two classes: blank, positive.
HEADS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)

MAX_TOKENS = 512  # BERT has no more positions


class Finding(NamedTuple):
    """What CheXbert makes of one report.

    Attributes:
        labels: [14], in the order of HEADS: BLANK, POSITIVE, NEGATIVE or UNCERTAIN.
        embedding: [hidden], the last layer's vector of the start token.
        blank: the report has no token at all.
        truncated: tokens at its end that were not read, because BERT reads 512.
    """

    labels: NDArray[np.int8]
    embedding: NDArray[np.float32]
    blank: bool
    truncated: int

    @property
    def positives(self) -> frozenset[str]:
        """The observations that the report affirms or doubts: f1chexbert counts UNCERTAIN as positive."""
        return frozenset(name for name, label in zip(HEADS, self.labels, strict=True) if label in (POSITIVE, UNCERTAIN))


class CheXbert:
    """The loaded model."""

    def __init__(self, network: torch.nn.ModuleDict, tokenizer: Tokenizer, device: str, batch_size: int) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self._batch_size = batch_size
        self._pad_id = int(network["bert"].config.pad_token_id)

    def findings(self, reports: Sequence[str]) -> list[Finding]:
        """One Finding a report, in order. Case and white space do not matter: the tokenizer drops them."""
        tokens = tokenise(self._tokenizer, reports, MAX_TOKENS)
        outputs = by_length([entry.ids for entry in tokens], self._batch_size, self._forward)
        return [
            Finding(labels, embedding, entry.blank, entry.surplus)
            for (labels, embedding), entry in zip(outputs, tokens, strict=True)
        ]

    def _forward(self, batch: list[list[int]]) -> list[tuple[NDArray[np.int8], NDArray[np.float32]]]:
        import torch

        ids_BT, mask_BT = (torch.from_numpy(array).to(self._device) for array in padded(batch, self._pad_id))
        with torch.inference_mode():
            hidden_BTH = self._network["bert"](input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            start_BH = hidden_BTH[:, 0]
            labels_BO = torch.stack([head(start_BH).argmax(1) for head in self._network["linear_heads"]], dim=1)
        # Copies: a view would keep its whole batch alive in the reference cache.
        embeddings = [np.array(row, dtype=np.float32) for row in start_BH.float().cpu().numpy()]
        labels = [np.array(row, dtype=np.int8) for row in labels_BO.cpu().numpy()]
        return list(zip(labels, embeddings, strict=True))


def load_chexbert(resources: Resources) -> CheXbert:
    """The process's CheXbert. Raises NotReadyError where a file is missing or not what it should be."""
    return loaded(NAME, resources, _read)


def find(reports: Sequence[str]) -> list[Finding]:
    """The findings of reports, by the loaded CheXbert."""
    return in_use(NAME, CheXbert).findings(reports)


def reference_findings(reports: Sequence[str]) -> list[Finding]:
    """The findings of reference reports, from the reference cache."""
    # In lower case, as RadCliQ has it: to an uncased model it is the same report, and so it is kept once.
    return REFERENCES.get_many(NAME, [report.lower() for report in reports], find)


def similarity(prediction: Finding, reference: Finding) -> float:
    """Cosine of the embeddings, -1 to 1; 0 where a report is blank (two start tokens alone would be much alike)."""
    if prediction.blank or reference.blank:
        return 0.0
    first, second = (np.asarray(finding.embedding, dtype=np.float64) for finding in (prediction, reference))
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.clip(cosine, -1.0, 1.0))


def _read(settings: ModelSettings) -> CheXbert:
    weights, bert = every(
        lambda: find_files(NAME, settings, REPO, [CHECKPOINT]),
        lambda: find_files(NAME, settings, BERT_REPO, ["config.json", "tokenizer.json"]),
    )
    import torch
    from transformers import BertConfig, BertModel

    device = device_of(NAME, settings)
    config = BertConfig.from_json_file(bert["config.json"])
    classes = [4] * (len(HEADS) - 1) + [2]
    network = torch.nn.ModuleDict(
        {
            "bert": BertModel(config, add_pooling_layer=False),
            "linear_heads": torch.nn.ModuleList(torch.nn.Linear(config.hidden_size, count) for count in classes),
        }
    )
    source = weights[CHECKPOINT]
    try:
        # weights_only: a checkpoint is data, and must not run code.
        state = torch.load(source, map_location="cpu", weights_only=True)["model_state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise not_published(NAME, source) from error
    # It was saved from a DataParallel.
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    fill(NAME, network, state, source, unused=("bert.pooler.", "bert.embeddings.position_ids"))
    return CheXbert(network, load_tokenizer(bert["tokenizer.json"]), device, settings.batch_size)
