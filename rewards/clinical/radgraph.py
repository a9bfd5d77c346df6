"""radgraph: the entities and relations of reports, as RadGraph-XL sees them (Delbrouck et al. 2024).

Role: texts to words to spans to graphs, in batches; the network is in radgraph_model.py.
Input: report texts of any length. Output: one Graph a text, equal to what the package radgraph 0.1.18 finds in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewards.clinical.batches import by_length
from rewards.clinical.radgraph_archive import MODEL, Archive, read_files
from rewards.clinical.weights import device_of, loaded
from rewards.radgraph_match import Entity, Graph, Relation
from rewards.resources import ModelSettings, Resources
from rewards.scorer import ScoreItem
from schemas.group import ScoreError

if TYPE_CHECKING:
    from rewards.clinical.radgraph_model import RadGraphModel

# Characters of a text. Relations are looked for between all pairs of a text's entities: this is far beyond any report,
# and more would cost a service minutes and gigabytes.
_LONGEST = 10_000
# Wordpieces of a batch: what is held for each (its vector, its word's spans) is 100 MB or so then, whatever the texts.
_BATCH_PIECES = 16_384

Indexes = NDArray[np.int64]
Word = list[int]  # a word's wordpieces

_WORD = re.compile(r"\w+|[^\w\s]+")
# Escapes that report databases leave in their texts, and what the training data had in their place.
_ESCAPES = (("\\n", " "), ("\\f", " "), ("\\u2122", " "), ("\n", " "), ('\\"', "``"))
# A run of punctuation is one word, but these are taken apart, in this order.
_APART = (").", "%.", ".'", "%,", "%)")


def words_of(text: str) -> list[str]:
    """The words of a report, cut as those of RadGraph-XL's training data."""
    # A lone surrogate is no character, and the tokenizer refuses it.
    text = text.encode("utf-8", "replace").decode("utf-8")
    for escape, plain in _ESCAPES:
        text = text.replace(escape, plain)
    text = " ".join(_WORD.findall(text))
    for mark in _APART:
        text = text.replace(mark, " ".join(mark))
    return text.split()


def too_long(scorer: str, item: ScoreItem) -> ScoreError | None:
    """The error of an item whose answer or reference no scorer should annotate."""
    for what, text in (("answer", item.answer), ("reference report", item.reference.report or "")):
        if len(text) > _LONGEST:
            message = f"the {what} has {len(text)} characters, {scorer} takes {_LONGEST}"
            return ScoreError(code="too_long", message=message)
    return None


class _Found(NamedTuple):
    entities: list[tuple[int, int, int]]  # first word, last word, label
    relations: list[tuple[int, int, int]]  # source entity, target entity, label


class RadGraph:
    """RadGraph-XL on one device: ``batch_size`` reports at a time, each as a whole, those of like length together.

    Fewer where they are long: a batch has at most 16,384 wordpieces, or is one report.
    """

    def __init__(self, model: RadGraphModel, tokenizer: Any, archive: Archive, batch_size: int) -> None:
        self._model, self._tokenizer, self._archive, self._batch_size = model, tokenizer, archive, batch_size

    def graphs(self, texts: Sequence[str]) -> list[Graph]:
        """One graph a text, in order; each distinct text is annotated once. A text without a word has an empty graph.

        Time and memory are linear in a text's length, but for the relations: they are scored for all pairs of its
        entities, as the model was trained. Memory does not grow with the number of texts.
        """
        words = {text: words_of(text) for text in dict.fromkeys(texts)}
        written = [text for text in words if words[text]]
        pieces = self._pieces([words[text] for text in written])
        found = by_length(pieces, self._batch_size, self._annotate, _size, _BATCH_PIECES)
        graphs = {text: self._graph(words[text], part) for text, part in zip(written, found, strict=True)}
        return [graphs.get(text, Graph()) for text in texts]

    def _graph(self, words: list[str], found: _Found) -> Graph:
        names, kinds = self._archive.entity_labels, self._archive.relation_labels
        return Graph(
            tuple(Entity(" ".join(words[a : b + 1]), names[label], a, b) for a, b, label in found.entities),
            tuple(Relation(source, target, kinds[label]) for source, target, label in found.relations),
        )

    def _pieces(self, reports: Sequence[Sequence[str]]) -> list[list[Word]]:
        # Each word is cut into pieces alone, so each distinct word once.
        distinct = list(dict.fromkeys(chain.from_iterable(reports)))
        if not distinct:
            return []
        # The training data's reader took these two words for their second character.
        asked = [word[1:] if word in ("/.", "/?") else word for word in distinct]
        encoded = self._tokenizer(
            asked, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        pieces = dict(zip(distinct, encoded["input_ids"], strict=True))
        return [[pieces[word] for word in report] for report in reports]

    def _annotate(self, reports: list[list[Word]]) -> list[_Found]:
        import torch

        with torch.inference_mode():
            return self._decode(self._embed(reports), np.array([len(report) for report in reports]))

    def _embed(self, reports: Sequence[Sequence[Word]]) -> Any:
        """words_WD of all reports, one after the other."""
        # A report that is longer than the encoder's window is cut into windows that don't know of each other.
        window = self._archive.layout.max_length - 2
        start, end, pad = (getattr(self._tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
        segments = []
        for report in reports:
            pieces = list(chain.from_iterable(report))
            segments += [[start, *pieces[at : at + window], end] for at in range(0, len(pieces), window)]
        encoded = by_length(segments, self._batch_size, lambda batch: self._model.encode(batch, pad))
        return self._model.pool(encoded, np.array([len(word) for report in reports for word in report]))

    def _decode(self, words_WD: Any, lengths_R: Indexes) -> list[_Found]:
        starts_S, ends_S = spans_of(lengths_R, self._archive.layout.max_span_width)
        labels_S, mentions_S = self._model.score_spans(words_WD, starts_S, ends_S)
        word_bounds = np.concatenate([[0], np.cumsum(lengths_R)])
        span_bounds = np.searchsorted(starts_S, word_bounds)
        entities = [np.flatnonzero(labels_S[a:b]) + a for a, b in pairwise(span_bounds)]
        kept_S = pruned(mentions_S, span_bounds, lengths_R, self._archive.layout.spans_per_word)
        # A relation of a span that is no entity is never reported, so such pairs need no score.
        sources_P, targets_P, kinds_P = self._related(
            words_WD, starts_S, ends_S, mentions_S, pairs_of([spans[kept_S[spans]] for spans in entities])
        )
        found = []
        for spans, first, (a, b) in zip(
            entities, word_bounds[:-1], pairwise(np.searchsorted(sources_P, span_bounds)), strict=True
        ):
            columns = (starts_S[spans] - first, ends_S[spans] - first, labels_S[spans])
            ends = (np.searchsorted(spans, sources_P[a:b]), np.searchsorted(spans, targets_P[a:b]), kinds_P[a:b])
            found.append(_Found(_rows(columns), _rows(ends)))
        return found

    def _related(
        self,
        words_WD: Any,
        starts_S: Indexes,
        ends_S: Indexes,
        mentions_S: NDArray[np.float32],
        pairs: tuple[Indexes, Indexes],
    ) -> tuple[Indexes, Indexes, Indexes]:
        """(sources_P, targets_P, labels_P) of the pairs that have a relation."""
        sources_P, targets_P = pairs
        if len(sources_P) == 0:
            return sources_P, targets_P, sources_P
        used_N, source_P = np.unique(sources_P, return_inverse=True)  # every kept entity is a source
        target_P = np.searchsorted(used_N, targets_P)
        kinds_P = self._model.score_pairs(
            words_WD, starts_S[used_N], ends_S[used_N], mentions_S[used_N], source_P, target_P
        )
        related_P = kinds_P >= 0
        return sources_P[related_P], targets_P[related_P], kinds_P[related_P]


def _size(report: Sequence[Word]) -> int:
    """A report's wordpieces; a word without one (control characters) counts too, for it has spans."""
    return sum(len(word) or 1 for word in report)


def spans_of(lengths_R: Indexes, max_width: int) -> tuple[Indexes, Indexes]:
    """(starts_S, ends_S): all spans of at most ``max_width`` words, by first and then last word, within each report."""
    firsts_W = np.arange(lengths_R.sum())
    limits_W = np.repeat(np.cumsum(lengths_R), lengths_R)
    ends_WX = firsts_W[:, None] + np.arange(max_width)
    inside_WX = ends_WX < limits_W[:, None]
    return np.nonzero(inside_WX)[0], ends_WX[inside_WX]


def pruned(
    scores_S: NDArray[np.float32], bounds: Indexes, lengths_R: Indexes, spans_per_word: float
) -> NDArray[np.bool_]:
    """Which spans may take part in relations: each report's best, ``spans_per_word`` times its words, rounded up."""
    # In single precision, as published: 0.3 times 10 words must not become 4 spans.
    counts_R = np.ceil(lengths_R.astype(np.float32) * np.float32(spans_per_word)).astype(np.int64)
    kept_S = np.zeros(len(scores_S), dtype=np.bool_)
    for (a, b), count in zip(pairwise(bounds), counts_R, strict=True):
        kept_S[a + np.argsort(-scores_S[a:b], kind="stable")[:count]] = True
    return kept_S


def pairs_of(groups: Sequence[Indexes]) -> tuple[Indexes, Indexes]:
    """(sources_P, targets_P): within each group every ordered pair, one of a member with itself included."""
    sources = [np.repeat(group, len(group)) for group in groups]
    targets = [np.tile(group, len(group)) for group in groups]
    return np.concatenate(sources), np.concatenate(targets)


def _rows(columns: Sequence[Indexes]) -> list[tuple[int, int, int]]:
    return list(zip(*(column.tolist() for column in columns), strict=True))


def load_radgraph(resources: Resources) -> RadGraph:
    """This process's RadGraph, loaded once for all scorers that use it.

    Raises:
        NotReadyError: a file is missing or broken, or the device is not there.
    """
    return loaded(MODEL, resources, _load)


def _load(settings: ModelSettings) -> RadGraph:
    # Files first: what is missing should be said before torch's seconds of import.
    archive, encoder = read_files(settings)
    from transformers import AutoTokenizer

    from rewards.clinical.radgraph_model import load_model

    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    model = load_model(archive, encoder, device_of(MODEL, settings))
    # Not the archive itself: it still holds the file's bytes.
    return RadGraph(model, tokenizer, replace(archive, weights=b""), settings.batch_size)
