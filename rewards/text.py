"""Text: which part of a completion is scored, and its sentences.

Role: the one place that knows about ``</think>`` and about where a sentence ends.
Input: what the policy wrote. Output: the answer; its sentences. Linear in the text's length.
"""

from __future__ import annotations

import re

THINK_END = "</think>"

# A line that goes on in lower case is a wrapped line; one that starts otherwise is a new sentence. A full stop inside
# a number ("1.5 cm") has no space after it.
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"')\]]*\s+|\s*\n\s*\n\s*|\s*\n(?=[ \t]*[^\sa-z])")


def answer_of(completion: str, thinking: bool) -> str:
    """The text that is scored: all of what follows the last ``</think>``.

    Without ``</think>`` it is the whole completion; in a thinking run it is empty, since the trace never ended and
    nothing was answered (else boxes and findings that were only thought about would count).
    """
    _, mark, answer = completion.rpartition(THINK_END)
    if not mark and thinking:
        return ""
    return answer.strip()


def sentences(text: str) -> list[str]:
    """The sentences of a report, stripped, without empty ones and without bare list numbers ("1.")."""
    parts = (" ".join(part.split()) for part in _SENTENCE_END.split(text))
    return [part for part in parts if any(character.isalpha() for character in part)]
