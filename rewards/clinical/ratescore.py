"""RaTEScore: do two reports name the same findings, also in other words? (Zhao et al. 2024, arXiv 2406.16845)

Role: the entities of a text, their embeddings, and the weighted comparison behind the scorer ratescore.
Input: texts; RaTE-NER-Deberta and BioLORD-2023-C as published. Output: Entities a text; precision and recall of two.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.clinical.batches import by_length, padded
from rewards.clinical.ratescore_weights import DENIALS, KINDS, WEIGHTS
from rewards.clinical.tokens import load_tokenizer, tokenise
from rewards.clinical.weights import device_of, every, fill, find_files, in_use, loaded, not_published
from rewards.references import REFERENCES
from rewards.resources import ModelSettings, NotReadyError, Resources
from rewards.text import sentences

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

NER = "ratescore_ner"
NER_REPO = "Angelakeke/RaTE-NER-Deberta"
EMBEDDING = "ratescore_embedding"
EMBEDDING_REPO = "FremyCompany/BioLORD-2023-C"

NER_TOKENS = 512  # of one piece; a longer sentence is read in pieces, where the package leaves its end out
EMBEDDING_TOKENS = 30  # of one entity, as published; what an entity has beyond is left out
SHORTEST_SENTENCE = 3  # characters, as published
_ROWS = 1024  # entities compared at once: bounds the memory of two texts with thousands of them


class Entity(NamedTuple):
    """Some words of a text and what they are, e.g. ("pleural effusion", DISEASE)."""

    words: str
    kind: int  # index into KINDS


class Entities(NamedTuple):
    """What one text names.

    Attributes:
        kinds: [entities], indices into KINDS.
        vectors: [entities, hidden], of length 1.
        repeated: entities that an earlier one of the text equals in words and kind.
        truncated: entities whose words beyond 30 tokens are not in their vectors.
    """

    kinds: NDArray[np.int64]
    vectors: NDArray[np.float32]
    repeated: int
    truncated: int


class Embedding(NamedTuple):
    """An entity's vector, [hidden] of length 1, and how many tokens at its end are not in it."""

    vector: NDArray[np.float32]
    surplus: int


def spans(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first token, last token, kind) of each entity, from the labels of [CLS], a sentence's tokens and [SEP].

    A B- label begins an entity, I- labels of any kind go on with it. The label of [SEP] counts as the one that follows
    the last token, and where it is an I-, the last entity is dropped if another one stands right before it: so does
    the published code, whose numbers these must be.
    """
    found: list[tuple[int, int, str]] = []
    first: int | None = None
    for index in range(1, len(labels) - 1):
        if labels[index].startswith("B-"):
            first = index
        elif labels[index] == "O":
            first = None
        if first is None:
            continue
        is_last_token = index == len(labels) - 2
        if not labels[index + 1].startswith("I-") or (is_last_token and (first == 1 or labels[first - 1] == "O")):
            found.append((first, index, labels[first][2:]))
    return found


def similarity(these: Entities, others: Entities, matrix: Literal["long", "short"]) -> float:
    """Weighted mean over ``these`` entities of the cosine of the most similar other one.

    An entity's weight depends on its own kind and its match's. Where one is found and the other denied (a disease and
    a non-disease), the cosine is multiplied by the matrix' penalty. Of equally similar ones, e.g. the same words found
    in one sentence and denied in another, the first counts (the package: any). Neither side may be without entities.
    """
    weights_KK, penalty = WEIGHTS[matrix]
    cosines: list[NDArray[np.float32]] = []
    matches: list[NDArray[np.int64]] = []
    for start in range(0, len(these.vectors), _ROWS):
        cosine_RO = these.vectors[start : start + _ROWS] @ others.vectors.T
        matches.append(cosine_RO.argmax(axis=1))
        cosines.append(cosine_RO.max(axis=1))
    other_kinds = others.kinds[np.concatenate(matches)]
    weight_T = weights_KK[these.kinds, other_kinds]
    cosine_T = np.concatenate(cosines).astype(np.float64)
    agreement_T = np.where(DENIALS[these.kinds, other_kinds], penalty, 1.0) * cosine_T
    return float((agreement_T * weight_T).sum() / weight_T.sum())


class EntityRecogniser:
    """The loaded RaTE-NER-Deberta."""

    def __init__(self, network: torch.nn.Module, tokenizer: Tokenizer, device: str, batch_size: int) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self._batch_size = batch_size
        self._pad_id = int(network.config.pad_token_id)
        self._labels: dict[int, str] = network.config.id2label

    def find(self, texts: Sequence[str]) -> list[list[Entity]]:
        """The entities of each text, sentence by sentence. A sentence that several texts share is read once."""
        sentences_of = [[part for part in sentences(text) if len(part) >= SHORTEST_SENTENCE] for text in texts]
        distinct = list(dict.fromkeys(chain.from_iterable(sentences_of)))
        found = dict(zip(distinct, self._in_sentences(distinct), strict=True))
        return [[entity for part in parts for entity in found[part]] for parts in sentences_of]

    def _in_sentences(self, parts: Sequence[str]) -> list[list[Entity]]:
        pieces: list[list[int]] = []
        owners: list[int] = []
        for owner, (ids, _) in enumerate(tokenise(self._tokenizer, parts, sys.maxsize)):
            begin, *body, end = ids
            for start in range(0, len(body), NER_TOKENS - 2):
                pieces.append([begin, *body[start : start + NER_TOKENS - 2], end])
                owners.append(owner)
        found: list[list[Entity]] = [[] for _ in parts]
        for owner, ids, labels in zip(
            owners, pieces, by_length(pieces, self._batch_size, self._labels_of), strict=True
        ):
            for first, last, kind in spans(labels):
                words = self._tokenizer.decode(ids[first : last + 1], skip_special_tokens=False)
                found[owner].append(Entity(words, KINDS.index(kind)))
        return found

    def _labels_of(self, batch: list[list[int]]) -> list[list[str]]:
        import torch

        ids_BT, mask_BT = (torch.from_numpy(array).to(self._device) for array in padded(batch, self._pad_id))
        with torch.inference_mode():
            best_BT = self._network(input_ids=ids_BT, attention_mask=mask_BT).logits.argmax(dim=-1).tolist()
        return [[self._labels[label] for label in row[: len(ids)]] for row, ids in zip(best_BT, batch, strict=True)]


class EntityEncoder:
    """The loaded BioLORD-2023-C."""

    def __init__(self, network: torch.nn.Module, tokenizer: Tokenizer, device: str, batch_size: int) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self._batch_size = batch_size
        self._pad_id = int(network.config.pad_token_id)

    def encode(self, words: Sequence[str]) -> list[Embedding]:
        """One for each entity's words; the vector is the last hidden state of the start token."""
        tokens = tokenise(self._tokenizer, words, EMBEDDING_TOKENS)
        vectors = by_length([entry.ids for entry in tokens], self._batch_size, self._forward)
        return [Embedding(vector, entry.surplus) for vector, entry in zip(vectors, tokens, strict=True)]

    def _forward(self, batch: list[list[int]]) -> list[NDArray[np.float32]]:
        import torch

        ids_BT, mask_BT = (torch.from_numpy(array).to(self._device) for array in padded(batch, self._pad_id))
        with torch.inference_mode():
            hidden_BH = self._network(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state[:, 0].float()
            unit_BH = torch.nn.functional.normalize(hidden_BH, dim=-1).cpu().numpy()
        return list(unit_BH)


def entities(texts: Sequence[str]) -> list[Entities]:
    """What each text names, by the loaded models."""
    found = in_use(NER, EntityRecogniser).find(texts)
    words = list(dict.fromkeys(entity.words for entity in chain.from_iterable(found)))
    embeddings = dict(zip(words, in_use(EMBEDDING, EntityEncoder).encode(words), strict=True))
    return [_gathered(named, embeddings) for named in found]


def reference_entities(texts: Sequence[str]) -> list[Entities]:
    """What reference reports name, from the reference cache."""
    return REFERENCES.get_many("ratescore_entities", texts, entities)


def _gathered(named: Sequence[Entity], embeddings: dict[str, Embedding]) -> Entities:
    embedded = [embeddings[entity.words] for entity in named]
    return Entities(
        kinds=np.array([entity.kind for entity in named], dtype=np.int64),
        vectors=np.stack([entry.vector for entry in embedded]) if embedded else np.zeros((0, 1), np.float32),
        repeated=len(named) - len(set(named)),
        truncated=sum(entry.surplus > 0 for entry in embedded),
    )


def load_ratescore(resources: Resources) -> None:
    """Loads the process's two models. Raises NotReadyError where a file is missing or not what it should be."""
    every(lambda: loaded(NER, resources, _read_recogniser), lambda: loaded(EMBEDDING, resources, _read_encoder))


def _read_recogniser(settings: ModelSettings) -> EntityRecogniser:
    files = find_files(NER, settings, NER_REPO, ["config.json", "model.safetensors", "tokenizer.json"])
    from transformers import DebertaV2Config, DebertaV2ForTokenClassification

    device = device_of(NER, settings)
    config = DebertaV2Config.from_json_file(files["config.json"])
    if {label[2:] for label in config.id2label.values() if label != "O"} != set(KINDS):
        raise NotReadyError(f"{NER}: {files['config.json']} has other labels than {NER_REPO}; download it again")
    network = DebertaV2ForTokenClassification(config)
    _fill(NER, network, files["model.safetensors"], ("deberta.embeddings.position_ids",))
    return EntityRecogniser(network, load_tokenizer(files["tokenizer.json"]), device, settings.batch_size)


def _read_encoder(settings: ModelSettings) -> EntityEncoder:
    files = find_files(EMBEDDING, settings, EMBEDDING_REPO, ["config.json", "model.safetensors", "tokenizer.json"])
    from transformers import MPNetConfig, MPNetModel

    device = device_of(EMBEDDING, settings)
    network = MPNetModel(MPNetConfig.from_json_file(files["config.json"]), add_pooling_layer=False)
    _fill(EMBEDDING, network, files["model.safetensors"], ("pooler.", "embeddings.position_ids"))
    tokenizer = load_tokenizer(files["tokenizer.json"])
    # An entity with a letter that RaTE-NER does not know has [UNK] in its words, which the package reads as a token.
    tokenizer.encode_special_tokens = False
    return EntityEncoder(network, tokenizer, device, settings.batch_size)


def _fill(model: str, network: torch.nn.Module, source: Path, unused: tuple[str, ...]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(source)
    except SafetensorError as error:
        raise not_published(model, source) from error
    fill(model, network, state, source, unused)
