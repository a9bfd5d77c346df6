"""Tokens: a text as an encoder reads it, and how much of it did not fit.

Role: the published ``tokenizer.json`` without its own truncation and padding, so that nothing is cut unseen.
Input: texts and the encoder's limit. Output: token ids with the encoder's start and end tokens; the surplus, counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Tokens(NamedTuple):
    """One text.

    Attributes:
        ids: start token, the text's tokens, end token.
        surplus: the text's last tokens that the encoder has no place for.
    """

    ids: list[int]
    surplus: int

    @property
    def blank(self) -> bool:
        """Whether there is nothing between start and end: no text, or nothing that the encoder knows as text."""
        return len(self.ids) <= 2


def load_tokenizer(path: Path) -> Tokenizer:
    """A published tokenizer for which every text is plain text: a written ``[SEP]`` or ``</s>`` ends nothing."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> list[Tokens]:
    """One Tokens a text, each of at most ``limit`` ids; a longer text keeps its beginning and the end token."""
    # Half a surrogate pair is a str that has no UTF-8; the tokenizer would refuse it.
    encodings = tokenizer.encode_batch([text.encode(errors="replace").decode() for text in texts])
    tokens = []
    for ids in (encoding.ids for encoding in encodings):
        surplus = max(0, len(ids) - limit)
        tokens.append(Tokens([*ids[: limit - 1], ids[-1]] if surplus else ids, surplus))
    return tokens
