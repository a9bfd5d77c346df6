"""radgraph_f1: how far the entities and relations of a report agree with its reference's.

Role: the clinical report score of the paper, from RadGraph-XL's graphs.
Input: answer and reference report. Output: the mean of entity F1 and relation F1, or one of the package's three levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rewards.clinical.radgraph import RadGraph, load_radgraph, too_long
from rewards.clinical.radgraph_archive import MODEL
from rewards.clinical.weights import in_use
from rewards.radgraph_match import Graph, complete, entity_f1, partial, relation_f1, reward_f1, simple
from rewards.references import REFERENCES
from rewards.scorer import ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError


class RadGraphF1Params(Settings):
    """Parameters of radgraph_f1."""

    level: Literal["mean", "simple", "partial", "complete"] = Field(
        default="mean",
        description="mean of entity and relation F1 (the paper's), or one of the radgraph package's rewards: "
        "entities (simple), with whether they have a relation (partial), with their relations (complete)",
    )


def _score(predicted: Graph, reference: Graph, level: str) -> Score:
    values = {
        "mean": reward_f1(predicted, reference),
        "simple": simple(predicted, reference),
        "partial": partial(predicted, reference),
        "complete": complete(predicted, reference),
    }
    counts = {
        "entity_f1": entity_f1(predicted, reference),
        "relation_f1": relation_f1(predicted, reference),
        "predicted_entities": len(predicted.entities),
        "reference_entities": len(reference.entities),
        "predicted_relations": len(predicted.relations),
        "reference_relations": len(reference.relations),
    }
    return Score(value=values[level], details=values | counts)


def score(items: Sequence[ScoreItem], params: RadGraphF1Params) -> list[Score | ScoreError]:
    """One score an item; an error where a text is too long for all its pairs of entities to be looked at."""
    radgraph = in_use(MODEL, RadGraph)
    results: list[Score | ScoreError | None] = [too_long("radgraph_f1", item) for item in items]
    asked = [index for index, refused in enumerate(results) if refused is None]
    reports = [items[index].reference.report or "" for index in asked]
    references = REFERENCES.get_many("radgraph", reports, radgraph.graphs)
    predictions = radgraph.graphs([items[index].answer for index in asked])
    for index, predicted, reference in zip(asked, predictions, references, strict=True):
        results[index] = _score(predicted, reference, params.level)
    return [result for result in results if result is not None]


SCORER = Scorer(
    name="radgraph_f1",
    version="1",
    tasks=frozenset({"report", "conversation"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=RadGraphF1Params,
    score=score,
    tier="clinical",
    load=load_radgraph,
    summary="agreement of RadGraph-XL's entities and relations with the reference's",
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
)
