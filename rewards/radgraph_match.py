"""radgraph_match: how far two RadGraph graphs agree.

Role: the F1 levels of radgraph_f1, and the RadGraph part of RadCliQ. Pure: sets and counts, no model.
Input: two Graphs (entities, relations between them). Output: F1 values, 0-1; 0 wherever nothing is in common.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple


class Entity(NamedTuple):
    """A span of a report's words. ``end`` is its last word; ``tokens`` are its words as written, joined by spaces."""

    tokens: str
    label: str
    start: int
    end: int


class Relation(NamedTuple):
    """A directed relation between two entities, given by their indexes in the graph."""

    source: int
    target: int
    label: str


@dataclass(frozen=True)
class Graph:
    """What a report says: entities in the order of their spans, relations in the order of sources, then targets."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()


def f1(predicted: Set[object], reference: Set[object]) -> float:
    """2 |both| / (|predicted| + |reference|) of two sets; 0 where they share nothing, so also where both are empty."""
    common = len(predicted & reference)
    return 2.0 * common / (len(predicted) + len(reference)) if common else 0.0


# The three rewards of Delbrouck et al. 2022 ("Improving the Factual Correctness of Radiology Report Generation with
# Semantic Rewards"), as the package radgraph 0.1.18 computes them: letter case counts, except within a relation.


def simple(predicted: Graph, reference: Graph) -> float:
    """F1 of entities, each with its label."""
    return f1({(e.tokens, e.label) for e in predicted.entities}, {(e.tokens, e.label) for e in reference.entities})


def _with_relation_flag(graph: Graph) -> set[object]:
    sources = {relation.source for relation in graph.relations}
    return {(e.tokens, e.label, index in sources) for index, e in enumerate(graph.entities)}


def partial(predicted: Graph, reference: Graph) -> float:
    """F1 of entities, each with its label and whether a relation starts from it."""
    return f1(_with_relation_flag(predicted), _with_relation_flag(reference))


def _with_relations(graph: Graph) -> set[object]:
    sources = {relation.source for relation in graph.relations}
    found: set[object] = {(e.tokens, e.label) for index, e in enumerate(graph.entities) if index not in sources}
    for relation in graph.relations:
        source, target = graph.entities[relation.source], graph.entities[relation.target]
        found.add((source.tokens.lower(), source.label, relation.label, target.tokens.lower()))
    return found


def complete(predicted: Graph, reference: Graph) -> float:
    """F1 of entities without a relation and of relations with their target's words."""
    return f1(_with_relations(predicted), _with_relations(reference))


# RadCliQ's RadGraph part (Yu et al. 2023, "Evaluating progress in automatic chest X-ray radiology report generation",
# CXR-Report-Metric) compares reports in lower case, and a relation with the labels of both its ends.


def _entities(graph: Graph) -> list[tuple[str, str]]:
    return [(entity.tokens.lower(), entity.label) for entity in graph.entities]


def entity_f1(predicted: Graph, reference: Graph) -> float:
    """F1 of the sets of (words, label)."""
    return f1(set(_entities(predicted)), set(_entities(reference)))


def _relations(graph: Graph) -> set[object]:
    ends = _entities(graph)
    return {(ends[relation.source], ends[relation.target], relation.label) for relation in graph.relations}


def relation_f1(predicted: Graph, reference: Graph) -> float:
    """F1 of the sets of (source, target, type), source and target with words and label."""
    return f1(_relations(predicted), _relations(reference))


def reward_f1(predicted: Graph, reference: Graph) -> float:
    """The mean of entity F1 and relation F1. At most 0.5 where the reference has no relation, as published."""
    return (entity_f1(predicted, reference) + relation_f1(predicted, reference)) / 2.0
