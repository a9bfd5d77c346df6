"""Quoting: how a report enters a judge's prompt as data that can't instruct the judge.

Role: the one place that knows what a judge's tokenizer or eyes could take for an instruction.
Input: any text. Output: the text without control tokens; the text between marks that it can't contain.
"""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

# Every control character but tab and newline, and the separators of lines and paragraphs: a space, as they part words.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
# What Unicode calls ignorable beside category Cf: joiners, fillers, variation selectors, their reserved neighbours.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
# "<|im_start|>", "</s>", "<<SYS>>", "<start_of_turn>", DeepSeek's fullwidth bars; "<1 cm" and "< 5" stay.
_TAG = re.compile(r"<(?=[^\s\d=.])")
# "[INST]", "[/INST]", "[TOOL_CALLS]", "[SEP]"; GLM's "[gMASK]" and "[sop]"; MiniMax's "[e~["; boxes stay.
_BRACKET = re.compile(r"\[(?=(?:/?[A-Z_]+|[gs]MASK|[se]op)\]|[a-z]++~)")
# MiniMax's "]~b]", "]~!b[", "]!p~[".
_CLOSING = re.compile(r"\](?=~|![a-z])")


def _visible(text: str) -> str:
    """The text without what no eye sees: format characters (soft hyphens, marks of direction, tags), ignorable ones."""
    hidden = {ord(character): None for character in set(text) if unicodedata.category(character) == "Cf"}
    return _CONTROL.sub(" ", _IGNORABLE.sub("", text.translate(hidden)))


def harmless(text: str) -> str:
    """The text with the control tokens of chat templates broken by a space, and nothing invisible in it.

    A tokenizer reads ``<|im_end|>`` in a message as the end of that message, wherever it stands; ``< |im_end|>`` is
    plain text to it. Covered are tokens in angle brackets (ChatML and Qwen, Llama 2 to 4, Gemma, Phi, DeepSeek, GLM,
    Granite, Cohere), in square brackets and capitals (Mistral, Llama 2, BERT), GLM's ``[gMASK]`` and ``[sop]``, and
    MiniMax's (``]~b]``, ``[e~[``). A judge of another family may have others; role names in plain words ("USER:") are
    no tokens and stay. A report that has none of these comes back unchanged. Linear in the text's length.
    """
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8, so no request could carry it
    return _CLOSING.sub("] ", _BRACKET.sub("[ ", _TAG.sub("< ", _visible(text))))


def mark_of(text: str) -> str:
    """What marks a text's begin and end: a digest of the text itself.

    A text can't contain its own digest, so it can't close its own quotation, and unlike a random mark the digest is
    the same every time: so is the judge's prompt, and with it the score and the engine's prefix cache.
    """
    return blake2b(text.encode(), digest_size=8).hexdigest()


def quoted(name: str, text: str) -> str:
    """A harmless text between two lines that name it, e.g. ``BEGIN REPORT 0f3a...`` and ``END REPORT 0f3a...``."""
    safe = harmless(text)
    mark = mark_of(safe)
    return f"BEGIN {name} {mark}\n{safe}\nEND {name} {mark}"
