"""Tiny random models in the exact file and key layout of RaTEScore's two published ones.

Role: what the tests of ratescore load with the same code as the real weights, and what the original package is run on.
Input: a folder. Output: RaTE-NER-Deberta's and BioLORD-2023-C's files; the numbers come from numpy.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from clinical_checkpoints import random_weights
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import DebertaV2Config, DebertaV2ForTokenClassification, MPNetConfig, MPNetModel

TYPES = ("ABNORMALITY", "NON-ABNORMALITY", "ANATOMY", "DISEASE", "NON-DISEASE")
LABELS = (*(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI"), "O")
WORDS = (
    "no", "small", "large", "left", "right", "pleural", "effusion", "opacity", "lung", "lungs", "are", "clear", "heart",
    "size", "is", "normal", "the", "mild", "edema", "pneumothorax", "in", "of", "with", "lower", "lobe", "there", "and",
)  # fmt: skip
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def save_ner(folder: Path, seed: int) -> None:
    """Angelakeke/RaTE-NER-Deberta: DeBERTa-v3 with a token classifier of five types, and its Unigram tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pieces = [*((f"▁{word}", -1.0) for word in WORDS), *((f"▁{word.title()}", -1.5) for word in WORDS)]
    pieces += [("usion", -2.0), ("thorax", -2.0), ("▁", -3.0), *((character, -4.0) for character in CHARACTERS)]
    tokenizer = Tokenizer(
        models.Unigram([*((special, 0.0) for special in specials), *pieces, ("[MASK]", 0.0)], unk_id=3)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*specials, "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{key}_token": token for key, token in names.items()}},
    )
    config = DebertaV2Config(
        vocab_size=tokenizer.get_vocab_size(), type_vocab_size=0, relative_attention=True, position_buckets=32,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        max_relative_positions=-1, max_position_embeddings=512, layer_norm_eps=1e-7, pad_token_id=0,
        id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)}, **SMALL,
    )  # fmt: skip
    _write(folder / "config.json", {**config.to_dict(), "architectures": ["DebertaV2ForTokenClassification"]})
    weights = _telling_apart(DebertaV2ForTokenClassification(config), seed)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_embedding(folder: Path, seed: int) -> None:
    """FremyCompany/BioLORD-2023-C: MPNet with its pooler, saved without a prefix, and its WordPiece tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    pieces = [*specials, *WORDS, *CHARACTERS.lower(), *(f"##{character}" for character in CHARACTERS.lower())]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.enable_truncation(128)  # as published; 30 is what RaTEScore reads
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad": "<pad>", "cls": "<s>", "sep": "</s>", "bos": "<s>", "eos": "</s>", "unk": "[UNK]", "mask": "<mask>"}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{key}_token": token for key, token in names.items()}},
    )
    config = MPNetConfig(
        vocab_size=len(vocabulary), max_position_embeddings=514, pad_token_id=1, bos_token_id=0, eos_token_id=2, **SMALL
    )
    _write(folder / "config.json", {**config.to_dict(), "architectures": ["MPNetModel"]})
    weights = _telling_apart(MPNetModel(config), seed)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _telling_apart(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random weights with which words differ more than places do: else every word gets one label, one embedding."""
    shapes = {name: tensor for name, tensor in network.state_dict().items() if "position_ids" not in name}
    weights = random_weights(shapes, seed)
    for name, tensor in weights.items():
        if name.endswith("bias"):
            tensor *= 0.1
        elif name.endswith(("word_embeddings.weight", "value_proj.weight", "attn.v.weight", "attn.o.weight")):
            tensor *= 3.0
    return weights


def _write(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2))
