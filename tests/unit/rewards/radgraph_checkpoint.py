"""A tiny RadGraph-XL checkpoint in the published layout, the same on every machine.

Role: what the tests of radgraph load, and what the original package was given to make the expected graphs.
Input: a folder. Output: its config.json, vocabulary/ and weights.th, and the encoder's config.json and vocab.txt.
"""

import io
import json
import string
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

ENCODER = "microsoft/BiomedVLP-CXR-BERT-general"
ENTITY_LABELS = (
    "",  # the null label
    "Anatomy::definitely present",
    "Observation::definitely present",
    "Observation::definitely absent",
    "Observation::uncertain",
    "Observation::measurement::definitely present",
)
RELATION_LABELS = ("modify", "located_at", "suggestive_of")

_SEED = 4
_HIDDEN, _INTERMEDIATE, _LAYERS, _FEATURE, _UNITS, _MAX_WIDTH = 24, 48, 2, 6, 16, 5
_SPAN = 2 * _HIDDEN + _FEATURE
_BERT = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
_WORDS = (
    "the lung lungs are clear no acute effusion pleural opacity left right heart size is normal small mild edema "
    "consolidation in lower lobe of there and with pneumonia atelectasis tube stable 1 . , cardio pulmonary"
)
_PIECES = "##s ##al ##ity ##ization ##megaly ##thorax"
VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *string.ascii_lowercase,
    *string.digits,
    *string.punctuation,
    *(f"##{character}" for character in string.ascii_lowercase + string.digits),
    *(word for word in _WORDS.split() if len(word) > 1),
    *_PIECES.split(),
)

# How far the weights of the last layers spread: entities and relations by much, so that spans differ, mentions by less.
_SPREADS = {"_ner_scorers": 3.0, "_mention_pruners": 0.3, "_relation_scorers": 3.0}
# Offsets that make a random network find some spans and some relations, not none and not all.
ENTITY_BIAS, MENTION_BIAS = -3.0, 0.0
RELATION_BIAS = (-2.0, -2.0, 4.0)  # one a label


def config(encoder: str = ENCODER) -> dict[str, object]:
    """config.json: the published keys."""
    bert = {"type": "pretrained_transformer_mismatched", "model_name": encoder, "max_length": 512}
    return {
        "dataset_reader": {"type": "dygie", "max_span_width": _MAX_WIDTH, "token_indexers": {"bert": bert}},
        "model": {
            "type": "dygie",
            "embedder": {"token_embedders": {"bert": bert}},
            "feature_size": _FEATURE,
            "feedforward_params": {"num_layers": 2, "hidden_dims": _UNITS, "dropout": 0.4},
            "initializer": {"regexes": []},
            "module_initializer": {"regexes": []},
            "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
            "max_span_width": _MAX_WIDTH,
            "modules": {
                "ner": {},
                "relation": {"spans_per_word": 0.5},
                "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
                "events": {
                    "trigger_spans_per_word": 0.3,
                    "argument_spans_per_word": 0.8,
                    "loss_weights": {"trigger": 1.0, "arguments": 1.0},
                },
            },
            "target_task": "relation",
        },
    }


def _encoder_config() -> dict[str, object]:
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": len(VOCABULARY),
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "pad_token_id": 0,
    }


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _feedforward(name: str, inputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _linear(f"{name}_linear_layers.0", inputs, _UNITS)
    yield from _linear(f"{name}_linear_layers.1", _UNITS, _UNITS)


def _bert() -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, count in (("word", len(VOCABULARY)), ("position", 512), ("token_type", 2)):
        yield f"{_BERT}embeddings.{name}_embeddings.weight", (count, _HIDDEN)
    yield from _linear(f"{_BERT}embeddings.LayerNorm", 1, _HIDDEN)
    for layer in range(_LAYERS):
        at = f"{_BERT}encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{at}attention.{part}", _HIDDEN, _HIDDEN)
        yield from _linear(f"{at}attention.output.LayerNorm", 1, _HIDDEN)
        yield from _linear(f"{at}intermediate.dense", _HIDDEN, _INTERMEDIATE)
        yield from _linear(f"{at}output.dense", _INTERMEDIATE, _HIDDEN)
        yield from _linear(f"{at}output.LayerNorm", 1, _HIDDEN)
    yield from _linear(f"{_BERT}pooler.dense", _HIDDEN, _HIDDEN)


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _bert()
    yield "_endpoint_span_extractor._span_width_embedding.weight", (_MAX_WIDTH, _FEATURE)
    ner = "_ner._ner_scorers.radgraph-xl__ner_labels."
    yield from _feedforward(f"{ner}0._module.", _SPAN)
    yield from _linear(f"{ner}1._module", _UNITS, len(ENTITY_LABELS) - 1)
    # Coreference and events: trained with weight 0, never used, and still in the file.
    yield "_coref._distance_embedding.weight", (10, _FEATURE)
    yield from _feedforward("_coref._antecedent_feedforward._module.", 3 * _SPAN + _FEATURE)
    yield from _feedforward("_coref._mention_pruner._scorer.0._module.", _SPAN)
    yield from _linear("_coref._mention_pruner._scorer.1._module", _UNITS, 1)
    yield from _linear("_coref._antecedent_scorer._module", _UNITS, 1)
    yield from _linear("_coref._f_network._linear_layers.0", 2 * _SPAN, _SPAN)
    yield "_events._distance_embedding.weight", (10, _FEATURE)
    relation = "radgraph-xl__relation_labels"
    yield from _feedforward(f"_relation._mention_pruners.{relation}._scorer.0._module.", _SPAN)
    yield from _linear(f"_relation._mention_pruners.{relation}._scorer.1._module", _UNITS, 1)
    yield from _feedforward(f"_relation._relation_feedforwards.{relation}.", 3 * _SPAN)
    yield from _linear(f"_relation._relation_scorers.{relation}", _UNITS, len(RELATION_LABELS))


def weights() -> dict[str, torch.Tensor]:
    """weights.th: every published name, values from a generator whose stream numpy has frozen."""
    random = np.random.RandomState(_SEED)
    tensors = {}
    for name, shape in _shapes():
        if "LayerNorm" in name:
            shape = (_HIDDEN,)
            value = 0.1 * random.standard_normal(shape) + name.endswith("weight")
        elif len(shape) == 1:
            value = 0.1 * random.standard_normal(shape)
        else:
            value = random.standard_normal(shape) * (0.7 if "embedding" in name else 1.6 / np.sqrt(shape[1]))
        spread = next((spread for part, spread in _SPREADS.items() if part in name), None)
        if spread and len(shape) == 2 and "_linear_layers" not in name:
            # Behind a ReLU all inputs are positive: uncentred, the sum of a row and not the span would decide.
            value = spread * (value - value.mean(axis=1, keepdims=True))
        tensors[name] = torch.from_numpy(value.astype(np.float32))
    tensors["_ner._ner_scorers.radgraph-xl__ner_labels.1._module.bias"] += ENTITY_BIAS
    tensors["_relation._relation_scorers.radgraph-xl__relation_labels.bias"] += torch.tensor(RELATION_BIAS)
    tensors["_relation._mention_pruners.radgraph-xl__relation_labels._scorer.1._module.bias"] += MENTION_BIAS
    return tensors


def write_encoder(folder: Path) -> Path:
    """The encoder's two files, as its repository publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_encoder_config()))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def write_unpacked(
    folder: Path, encoder: str = ENCODER, tensors: dict[str, torch.Tensor] | None = None, **changes: object
) -> Path:
    """The archive's content in a folder; ``changes`` replace keys of the config's ``model``."""
    settings = config(encoder)
    model = settings["model"]
    assert isinstance(model, dict)
    model.update(changes)
    (folder / "vocabulary").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*tags\n*labels\n")
    (folder / "vocabulary" / "radgraph-xl__ner_labels.txt").write_text("\n".join(ENTITY_LABELS) + "\n")
    (folder / "vocabulary" / "radgraph-xl__relation_labels.txt").write_text("\n".join(RELATION_LABELS) + "\n")
    torch.save(weights() if tensors is None else tensors, folder / "weights.th")
    return folder


def write_archive(path: Path, unpacked: Path) -> Path:
    """radgraph-xl.tar.gz of an unpacked folder, with a member that tries to leave the folder."""
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(unpacked.rglob("*")):
            if file.is_file():
                archive.add(file, f"./{file.relative_to(unpacked)}")
        outside = tarfile.TarInfo("../outside.txt")
        outside.size = 3
        archive.addfile(outside, io.BytesIO(b"no\n"))
    return path
