"""Text: which part of a completion is scored, and its sentences.

Role: the one place that knows about ``</think>`` and about where a sentence ends.
Input: what the policy wrote. Output: the answer; its sentences. Linear in the text's length.
"""

from __future__ import annotations

import re

THINK_START = "<think>"
THINK_END = "</think>"

# A line that goes on in lower case is a wrapped line; one that starts otherwise is a new sentence. A full stop inside
# a number ("1.5 cm") has no space after it. No branch may start with a run of white space: it would be tried anew from
# each character of a run that does not end a sentence. What a branch leaves of a run is stripped from the sentence.
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"')\]]*\s+|\n\s*\n|\n(?=[ \t]*[^\sa-z])")


def answer_of(completion: str, thinking: bool) -> str:
    """The text that is scored: all of what follows the last ``</think>``.

    Without ``</think>`` it is the whole completion; in a thinking run it is empty, since the trace never ended and
    nothing was answered (else boxes and findings that were only thought about would count).
    """
    _, mark, answer = completion.rpartition(THINK_END)
    if not mark and thinking:
        return ""
    return answer.strip()


def thinks_as_asked(completion: str, thinking: bool) -> bool:
    """Whether a thinking run has one trace with something in it, and any other run none, which could hide text.

    Either the chat template or the policy writes ``<think>``; behind the trace's end it would open another one.
    """
    trace, _, answer = completion.rpartition(THINK_END)
    if completion.count(THINK_END) != (1 if thinking else 0) or THINK_START in answer:
        return False
    return not thinking or bool(trace.replace(THINK_START, "").strip())


def sentences(text: str) -> list[str]:
    """The sentences of a report, stripped, without empty ones and without bare list numbers ("1.")."""
    parts = (" ".join(part.split()) for part in _SENTENCE_END.split(text))
    return [part for part in parts if any(character.isalpha() for character in part)]
