"""The rule labeller: which of the 14 CheXpert observations a report affirms, denies or doubts.

Role: mention -> negation and uncertainty around it -> label, after Irvin et al. 2019 (CheXpert) and NegEx.
Input: a report. Output: observation -> Label; an observation that is not mentioned is absent. Linear in the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

from rewards import chexpert_vocabulary as vocabulary
from rewards.text import sentences


class Label(StrEnum):
    """What a report says of an observation."""

    POSITIVE = "positive"
    UNCERTAIN = "uncertain"
    NEGATIVE = "negative"


# Several statements about one observation: the strongest holds, as in CheXpert.
_STRENGTH = {Label.NEGATIVE: 0, Label.UNCERTAIN: 1, Label.POSITIVE: 2}

# How far a word's influence reaches; also what keeps a report of one endless sentence linear.
_BEFORE_CHARS = 250
_AFTER_CHARS = 120
_WORDS_TO_DENIAL = 8  # "pneumothorax or pleural effusion on either side is not seen"
_WORDS_TO_DOUBT = 4
_WORDS_FROM_HISTORY = 4

# Answers kept with their labels: the scorers of a batch ask for the same ones in turn.
_LABELLED = 512


def _any(phrases: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)")


def _by_stem(stems: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Stem -> the observations that it can stand for."""
    every = dict.fromkeys(stem for words in stems.values() for stem in words.split())
    return {stem: tuple(name for name, words in stems.items() if stem in words.split()) for stem in every}


_MENTIONS = {name: _any(phrases) for name, phrases in vocabulary.MENTIONS.items()}
_NORMAL_STATES = {name: _any(phrases) for name, phrases in vocabulary.NORMAL_STATES.items()}
_MENTION_STEMS = _by_stem(vocabulary.MENTION_STEMS)
_STATE_STEMS = _by_stem(vocabulary.STATE_STEMS)
_NORMAL_FILM = re.compile("|".join(vocabulary.NORMAL_FILM))
_NEGATION_BEFORE = _any(vocabulary.NEGATION_BEFORE)
_NOT_A_NEGATION = _any(vocabulary.NOT_A_NEGATION)
_NEGATION_AFTER = _any(vocabulary.NEGATION_AFTER)
_DOUBT_WITH_NOT = _any(vocabulary.DOUBT_WITH_NOT)
_DOUBT_BEFORE = _any(vocabulary.DOUBT_BEFORE)
_DOUBT_AFTER = _any(vocabulary.DOUBT_AFTER)
_SCOPE_END = _any(vocabulary.SCOPE_END)
_NOT_THIS_FILM = _any(vocabulary.NOT_THIS_FILM)
_INSIDE_NOT = re.compile(r"\b(?:not|isn't|aren't|without)\b")
_ALTERNATIVE = re.compile(r"\b(?:or|nor)\b|/")
_COORDINATION = re.compile(r"\b(?:or|nor|and)\b")
# A list item that starts like this is a statement of its own, unless an "or" shows that the list goes on.
_OWN_STATEMENT = re.compile(
    r" ?(?:there|the|an?|some|small|trace|tiny|mild(?:ly)?|moderate(?:ly)?|severe|large|left|right|bilateral|multiple|"
    r"stable|unchanged|new|heart)\b"
)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=re.Match.start, default=None)


def _scope(sentence: str, start: int, end: int) -> tuple[str, str]:
    """The text before and after a mention that can deny or doubt it."""
    before = sentence[max(0, start - _BEFORE_CHARS) : start]
    after = sentence[end : end + _AFTER_CHARS]
    border = _last(_SCOPE_END, before)
    if border is not None:
        before = before[border.end() :]
    border = _SCOPE_END.search(after)
    if border is not None:
        after = after[: border.start()]
    return before.rpartition(";")[2], after.partition(";")[0]


def _list_reaches(between: str, after: str, every_comma_ends: bool) -> bool:
    """Whether a "no" reaches over the list items between it and the mention."""
    items = between.split(",")[1:]
    for index, item in enumerate(items):
        if every_comma_ends or _OWN_STATEMENT.match(item):
            rest = ",".join(items[index:]) + after
            if not _ALTERNATIVE.search(rest):
                return False
    return True


def _denied_after(after: str) -> bool:
    denial = _NEGATION_AFTER.search(after.rstrip(" .!"))
    if denial is None:
        return False
    between = after[: denial.start()]
    near = len(between.split()) <= _WORDS_TO_DENIAL
    return near and ("," not in between or _COORDINATION.search(between) is not None)


def _denied_before(before: str, after: str, is_device: bool) -> bool:
    before = _NOT_A_NEGATION.sub(" ", before)
    denial = _last(_NEGATION_BEFORE, before)
    # "No effusion, endotracheal tube in place": a device is what a list of denials seldom ends in.
    return denial is not None and _list_reaches(before[denial.end() :], after, every_comma_ends=is_device)


def _doubted(before: str, mention: str, after: str) -> bool:
    doubt = _last(_DOUBT_BEFORE, before)
    if doubt is not None:
        between = before[doubt.end() :]
        if "," not in between or _COORDINATION.search(between):
            return True
    doubt = _DOUBT_AFTER.search(after)
    if doubt is not None:
        between = after[: doubt.start()]
        if len(between.split()) <= _WORDS_TO_DOUBT and "," not in between:
            return True
    return _DOUBT_BEFORE.search(mention) is not None or after.strip(" .").startswith("?")


def _label_mention(name: str, sentence: str, start: int, end: int) -> Label | None:
    """The label of one mention; None where it is about the past, not about this film."""
    before, after = _scope(sentence, start, end)
    mention = sentence[start:end]
    past = _last(_NOT_THIS_FILM, before)
    if past is not None and len(before[past.end() :].split()) <= _WORDS_FROM_HISTORY:
        return None
    if _DOUBT_WITH_NOT.search(before) or _DOUBT_WITH_NOT.search(after):
        return Label.UNCERTAIN
    is_device = name == "Support Devices"
    if _INSIDE_NOT.search(mention) or _denied_before(before, after, is_device) or _denied_after(after):
        return Label.NEGATIVE
    return Label.UNCERTAIN if _doubted(before, mention, after) else Label.POSITIVE


def _possible(sentence: str, stems: Iterable[str], names: Mapping[str, tuple[str, ...]]) -> Iterable[str]:
    """The observations of which the sentence holds a stem: the only ones that it can be about."""
    return dict.fromkeys(name for stem in stems if stem in sentence for name in names[stem])


def _mentioned(sentence: str, stems: Iterable[str]) -> Iterable[tuple[str, Label]]:
    for name in _possible(sentence, stems, _MENTION_STEMS):
        for match in _MENTIONS[name].finditer(sentence):
            label = _label_mention(name, sentence, match.start(), match.end())
            if label is not None:
                yield name, label


def _called_normal(sentence: str, stems: Iterable[str]) -> Iterable[tuple[str, Label]]:
    for name in _possible(sentence, stems, _STATE_STEMS):
        state = _NORMAL_STATES[name].search(sentence)
        if state is not None and not _INSIDE_NOT.search(state.group().replace("not enlarged", "")):
            yield name, Label.NEGATIVE


@lru_cache(_LABELLED)
def label_report(text: str) -> Mapping[str, Label]:
    """The observations that a report mentions, with what it says of them.

    ``No Finding`` is positive where nothing else but support devices is positive or uncertain, and the report says
    something normal: it denies an observation, or calls the film or a part of it normal. A blank or meaningless text
    gets no label at all (the CheXpert labeller calls it ``No Finding``; as a reward that would pay for silence).
    """
    labels: dict[str, Label] = {}
    normal = False
    lowered = text.lower()
    mention_stems = [stem for stem in _MENTION_STEMS if stem in lowered]
    state_stems = [stem for stem in _STATE_STEMS if stem in lowered]
    for part in sentences(text):
        sentence = part.lower()
        normal = normal or _NORMAL_FILM.search(sentence) is not None
        for name, label in (*_mentioned(sentence, mention_stems), *_called_normal(sentence, state_stems)):
            if name not in labels or _STRENGTH[label] > _STRENGTH[labels[name]]:
                labels[name] = label
    findings = {name for name, label in labels.items() if label is not Label.NEGATIVE}
    if not findings - {"Support Devices"} and (normal or Label.NEGATIVE in labels.values()):
        labels["No Finding"] = Label.POSITIVE
    return MappingProxyType(labels)


def positives(labels: Mapping[str, Label]) -> frozenset[str]:
    """The observations that a report affirms."""
    return frozenset(name for name, label in labels.items() if label is Label.POSITIVE)


def bit_mask(names: Set[str]) -> int:
    """Observations as one integer: bit i stands for ``vocabulary.OBSERVATIONS[i]``."""
    return sum(1 << index for index, name in enumerate(vocabulary.OBSERVATIONS) if name in names)
