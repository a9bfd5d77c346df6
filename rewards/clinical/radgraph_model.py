"""radgraph_model: the network of RadGraph-XL (DyGIE++, Wadden et al. 2019, with the parts that RadGraph uses).

Role: tensors only; texts, spans and pruning are beside it in radgraph.py.
Input: an Archive and the encoder's folder; wordpieces, spans, pairs. Output: scores of spans and of pairs of spans.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rewards.clinical.batches import padded
from rewards.clinical.radgraph_archive import ENTITY_LABELS, MODEL, PACKED, RELATION_LABELS, REPO, Archive
from rewards.resources import NotReadyError

Indexes = NDArray[np.int64]

# A pair's features are three spans wide: so many pairs at once keep them within 50 MB.
_PAIRS = 8192
_NAMED = 3  # parameters that an error names

_ENCODER = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
# Our module -> the same module in weights.th.
_PUBLISHED = {
    "encoder.": _ENCODER,
    "widths.": "_endpoint_span_extractor._span_width_embedding.",
    "entities.hidden.": f"_ner._ner_scorers.{ENTITY_LABELS}.0._module._linear_layers.",
    "entities.scores.": f"_ner._ner_scorers.{ENTITY_LABELS}.1._module.",
    "mentions.hidden.": f"_relation._mention_pruners.{RELATION_LABELS}._scorer.0._module._linear_layers.",
    "mentions.scores.": f"_relation._mention_pruners.{RELATION_LABELS}._scorer.1._module.",
    "relations.hidden.": f"_relation._relation_feedforwards.{RELATION_LABELS}._linear_layers.",
    "relations.scores.": f"_relation._relation_scorers.{RELATION_LABELS}.",
}
# Trained with weight 0, or not asked; position_ids count upwards, and newer versions of transformers don't save them.
_UNUSED = ("_coref.", "_events.", f"{_ENCODER}pooler.", f"{_ENCODER}embeddings.position_ids")


def _hidden_layers(inputs: int, units: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(before, after) for before, after in pairwise((inputs, *units)))


def _rest(layers: nn.ModuleList, first_XH: torch.Tensor) -> torch.Tensor:
    hidden_XH = functional.relu(first_XH)
    for layer in layers[1:]:
        hidden_XH = functional.relu(layer(hidden_XH))
    return hidden_XH


class Spans(NamedTuple):
    """Spans of a batch's words: first and last word, and the width's index (0 for one word)."""

    starts_S: torch.Tensor
    ends_S: torch.Tensor
    widths_S: torch.Tensor


class SpanScorer(nn.Module):  # type: ignore[misc]  # torch is not followed by the type checker
    """A feed-forward network over [first word; last word; width] of spans.

    Its first layer is applied to words and widths before spans are made of them: a word is part of many spans.
    """

    def __init__(self, word_size: int, feature_size: int, units: Sequence[int], outputs: int) -> None:
        super().__init__()
        self._parts = (word_size, word_size, feature_size)
        self.hidden = _hidden_layers(sum(self._parts), units)
        self.scores = nn.Linear(units[-1], outputs)

    def forward(self, words_WD: torch.Tensor, widths_XF: torch.Tensor, spans: Spans) -> torch.Tensor:
        first = self.hidden[0]
        start_HD, end_HD, width_HF = first.weight.split(self._parts, dim=1)
        first_SH = (words_WD @ start_HD.T)[spans.starts_S] + (words_WD @ end_HD.T)[spans.ends_S]
        first_SH += (widths_XF @ width_HF.T + first.bias)[spans.widths_S]
        return self.scores(_rest(self.hidden, first_SH))


class PairScorer(nn.Module):  # type: ignore[misc]
    """A feed-forward network over [source; target; source * target] of pairs of spans."""

    def __init__(self, span_size: int, units: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.hidden = _hidden_layers(3 * span_size, units)
        self.scores = nn.Linear(units[-1], outputs)

    def forward(self, spans_ND: torch.Tensor, sources_P: torch.Tensor, targets_P: torch.Tensor) -> torch.Tensor:
        first = self.hidden[0]
        source_HD, target_HD, product_HD = first.weight.chunk(3, dim=1)
        source_NH, target_NH = spans_ND @ source_HD.T + first.bias, spans_ND @ target_HD.T
        scores = []
        for source_P, target_P in zip(sources_P.split(_PAIRS), targets_P.split(_PAIRS), strict=True):
            first_PH = source_NH[source_P] + target_NH[target_P]
            first_PH += (spans_ND[source_P] * spans_ND[target_P]) @ product_HD.T
            scores.append(self.scores(_rest(self.hidden, first_PH)))
        return torch.cat(scores)


class RadGraphModel(nn.Module):  # type: ignore[misc]
    """Encoder, entity scorer, mention scorer (which spans take part in relations), relation scorer."""

    def __init__(self, encoder: Any, archive: Archive) -> None:
        super().__init__()
        layout, size = archive.layout, encoder.config.hidden_size
        self.encoder = encoder
        self.widths = nn.Embedding(layout.width_embeddings, layout.feature_size)
        # The null label has no score of its own: it is 0.
        self.entities = SpanScorer(size, layout.feature_size, layout.units, len(archive.entity_labels) - 1)
        self.mentions = SpanScorer(size, layout.feature_size, layout.units, 1)
        self.relations = PairScorer(2 * size + layout.feature_size, layout.units, len(archive.relation_labels))

    @property
    def device(self) -> torch.device:
        return self.widths.weight.device

    def encode(self, segments: Sequence[Sequence[int]], pad_id: int) -> list[torch.Tensor]:
        """Per segment the vectors of its wordpieces, without those of the special tokens at both ends."""
        ids_BT, mask_BT = (torch.from_numpy(array).to(self.device) for array in padded(segments, pad_id))
        hidden_BTD = self.encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        return [hidden_BTD[row, 1 : len(segment) - 1] for row, segment in enumerate(segments)]

    def pool(self, pieces: Sequence[torch.Tensor], counts_W: Indexes) -> torch.Tensor:
        """A word's vector: the mean of its pieces' vectors; zeros for a word without pieces (control characters)."""
        firsts_W = torch.from_numpy(np.cumsum(counts_W) - counts_W).to(self.device)
        if not pieces:
            return self.widths.weight.new_zeros(len(counts_W), self.encoder.config.hidden_size)
        pieces_PD = torch.cat(list(pieces))
        every_P = torch.arange(len(pieces_PD), device=self.device)
        # An embedding bag sums in a fixed order; index_add on a GPU does not.
        return functional.embedding_bag(every_P, pieces_PD, firsts_W, mode="mean")

    def _spans(self, starts_S: Indexes, ends_S: Indexes) -> Spans:
        return Spans(*(torch.from_numpy(array).to(self.device) for array in (starts_S, ends_S, ends_S - starts_S)))

    def score_spans(
        self, words_WD: torch.Tensor, starts_S: Indexes, ends_S: Indexes
    ) -> tuple[Indexes, NDArray[np.float32]]:
        """(labels_S, mentions_S): the best entity label, 0 for none, and the score of taking part in relations."""
        spans = self._spans(starts_S, ends_S)
        scores_SL = functional.pad(self.entities(words_WD, self.widths.weight, spans), (1, 0))
        mentions_S = self.mentions(words_WD, self.widths.weight, spans).squeeze(1)
        return scores_SL.argmax(dim=1).cpu().numpy(), mentions_S.cpu().numpy()

    def score_pairs(
        self,
        words_WD: torch.Tensor,
        starts_N: Indexes,
        ends_N: Indexes,
        mentions_N: NDArray[np.float32],
        sources_P: Indexes,
        targets_P: Indexes,
    ) -> Indexes:
        """The best relation label of each pair (indexes into the N spans), -1 for none."""
        spans, mentions = self._spans(starts_N, ends_N), torch.from_numpy(mentions_N).to(self.device)
        spans_ND = torch.cat([words_WD[spans.starts_S], words_WD[spans.ends_S], self.widths(spans.widths_S)], dim=1)
        source_P, target_P = (torch.from_numpy(array).to(self.device) for array in (sources_P, targets_P))
        scores_PL = self.relations(spans_ND, source_P, target_P) + (mentions[source_P] + mentions[target_P])[:, None]
        best: Indexes = functional.pad(scores_PL, (1, 0)).argmax(dim=1).cpu().numpy() - 1
        return best


def load_model(archive: Archive, encoder: Path, device: str) -> RadGraphModel:
    """The network with the published weights, in single precision.

    Raises:
        NotReadyError: weights.th does not fit; it names what is missing, unexpected or of another shape.
    """
    from transformers import BertConfig, BertModel

    config = BertConfig.from_json_file(encoder / "config.json")
    model = RadGraphModel(BertModel(config, add_pooling_layer=False), archive)
    try:
        published = torch.load(io.BytesIO(archive.weights), map_location="cpu", weights_only=True)
        model.load_state_dict(_renamed(model.state_dict(), published))
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:500]
        raise NotReadyError(
            f"{MODEL}: weights.th can't be loaded ({reason}); take {PACKED} from {REPO} again"
        ) from error
    model.eval().requires_grad_(False).to(device)
    return model


def _renamed(ours: Iterable[str], published: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: _published_name(name) for name in ours}
    found = {name for name in published if not name.startswith(_UNUSED)}
    missing, unexpected = sorted(set(names.values()) - found), sorted(found - set(names.values()))
    if missing or unexpected:
        raise NotReadyError(
            f"{MODEL}: weights.th does not fit its config.json: {_listed('missing', missing)}, "
            f"{_listed('unexpected', unexpected)}; take {PACKED} from {REPO} again"
        )
    return {name: published[theirs] for name, theirs in names.items()}


def _published_name(name: str) -> str:
    ours = next(prefix for prefix in _PUBLISHED if name.startswith(prefix))
    return _PUBLISHED[ours] + name.removeprefix(ours)


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{what}: {', '.join(names[:_NAMED]) or 'none'}{more}"
