"""Quoting: how a report enters a judge's prompt as data that can't instruct the judge.

Role: the one place that knows what a judge's tokenizer or eyes could take for an instruction.
Input: any text. Output: the text without control tokens; the text between marks that it can't contain.
"""

from __future__ import annotations

import re
from hashlib import blake2b

# Everything but tab and newline that has no glyph: NUL, escapes, the line and paragraph separators, what turns the
# reading direction, what hides between letters.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
# "<|im_start|>", "</s>", "<<SYS>>", "<start_of_turn>", DeepSeek's fullwidth bars; "<1 cm" and "< 5" stay.
_TAG = re.compile(r"<(?=[^\s\d=.])")
# "[INST]", "[/INST]", "[TOOL_CALLS]", "[SEP]"; boxes stay.
_BRACKET = re.compile(r"\[(?=/?[A-Z_]+\])")


def harmless(text: str) -> str:
    """The text with every chat template's control tokens broken by a space, and nothing invisible in it.

    A tokenizer reads ``<|im_end|>`` in a message as the end of that message, wherever it stands; ``< |im_end|>`` is
    plain text to it. A report that has none of these comes back unchanged. Linear in the text's length.
    """
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8, so no request could carry it
    return _BRACKET.sub("[ ", _TAG.sub("< ", _INVISIBLE.sub(" ", text)))


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
