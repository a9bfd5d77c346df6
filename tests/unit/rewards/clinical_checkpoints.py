"""Tiny random models in the exact file and key layout of the published ones.

Role: what the tests of the clinical scorers load with the same code as the real weights.
Input: a folder. Output: chexbert.pth + BERT's config and tokenizer; distilroberta-base's three files. The numbers come
from numpy, so that they are the same with any torch and any transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, RobertaConfig, RobertaForMaskedLM

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "no",
    "small",
    "left",
    "right",
    "effusion",
    "##s",
    "opacity",
    ".",
)
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
MERGES = [("Ġ", "e"), ("f", "f"), ("Ġe", "ff"), ("u", "s"), ("i", "o"), ("io", "n"), ("us", "ion"), ("Ġeff", "usion")]


@contextmanager
def one_thread() -> Iterator[None]:
    """Models this small spend more time on waking threads than on numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def random_weights(state: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """The same names and shapes, other numbers; the norms stay near one, or every token would come out alike."""
    random = np.random.default_rng(seed)
    made = {}
    for name in sorted(state):
        array = random.normal(0.0, 0.5, tuple(state[name].shape))
        if name.endswith("LayerNorm.weight"):
            array = 1.0 + 0.1 * array
        made[name] = torch.from_numpy(array.astype(np.float32))
    return made


def save_chexbert(folder: Path, seed: int = 0) -> None:
    """``chexbert.pth`` as StanfordAIMI/RRG_scorers has it, beside bert-base-uncased's config and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = BertConfig(vocab_size=len(WORDS), num_hidden_layers=2, max_position_embeddings=512, **SMALL)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    names = {f"module.bert.{name}": tensor for name, tensor in BertModel(config).state_dict().items()}
    for head in range(14):
        classes = 4 if head < 13 else 2
        names[f"module.linear_heads.{head}.weight"] = torch.empty(classes, config.hidden_size)
        names[f"module.linear_heads.{head}.bias"] = torch.empty(classes)
    optimizer = {"state": {}, "param_groups": []}
    checkpoint = {"epoch": 3, "model_state_dict": random_weights(names, seed), "optimizer_state_dict": optimizer}
    torch.save(checkpoint, folder / "chexbert.pth")
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(WORDS[:5]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)  # a saved tokenizer may bring its own; it must not be obeyed
    tokenizer.save(str(folder / "tokenizer.json"))


def save_distilroberta(folder: Path, seed: int = 0) -> None:
    """The files of distilbert/distilroberta-base, its slow tokenizer's too: six layers, a language model's head."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    config = RobertaConfig(
        vocab_size=len(pieces), num_hidden_layers=6, max_position_embeddings=514, type_vocab_size=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **SMALL
    )  # fmt: skip
    config.architectures = ["RobertaForMaskedLM"]
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "roberta"}))
    state = RobertaForMaskedLM(config).state_dict()
    published = {name: tensor for name, tensor in state.items() if "position_ids" not in name}
    save_file(random_weights(published, seed), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in MERGES), ""]))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    )
