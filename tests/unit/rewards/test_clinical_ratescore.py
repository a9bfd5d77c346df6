"""RaTEScore on tiny random checkpoints in the published layout: equal to the original package."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ratescore_checkpoint import save_embedding, save_ner

from rewards.clinical import ratescore as clinical
from rewards.clinical import weights
from rewards.clinical.ratescore import (
    EMBEDDING,
    NER,
    NER_TOKENS,
    Entities,
    EntityEncoder,
    EntityRecogniser,
    similarity,
    spans,
)
from rewards.clinical.ratescore_weights import DENIALS, KINDS, WEIGHTS
from rewards.references import DEFAULT_MIB, REFERENCES
from rewards.resources import ModelSettings, NotReadyError, Resources
from rewards.scorer import ScoreItem
from rewards.scorers import ratescore
from rewards.scorers.ratescore import RatescoreParams, f1
from rewards.text import sentences
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

VECTORS = json.loads((Path(__file__).parent / "vectors" / "ratescore.json").read_text())
PAIRS = [tuple(pair) for pair in VECTORS["pairs"]]
TEXTS = [pair[0] for pair in PAIRS] + [pair[1] for pair in PAIRS]
NAMING_ALL = RatescoreParams()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ratescore")
    for seed in {run["seed"] for run in VECTORS["runs"]}:
        save_ner(folder / f"ner-{seed}", seed)
        save_embedding(folder / f"embedding-{seed}", seed)
    return folder


def resources(folder: Path, seed: int = 6) -> Resources:
    def settings_of(name: str) -> ModelSettings:
        return ModelSettings(folder=folder / f"{name}-{seed}", device="cpu", batch_size=3)

    return Resources(models={NER: settings_of("ner"), EMBEDDING: settings_of("embedding")})


@pytest.fixture(autouse=True)
def models(folder: Path) -> Iterator[None]:
    REFERENCES.limit(DEFAULT_MIB * 2**20)
    ratescore.SCORER.load(resources(folder))
    yield
    weights._LOADED.clear()
    REFERENCES.limit(DEFAULT_MIB * 2**20)


def item(answer: str, report: str) -> ScoreItem:
    return ScoreItem("report", answer, answer, Reference(report=report))


def scores(pairs: list[tuple[str, str]], params: RatescoreParams = NAMING_ALL) -> list[Score]:
    results = ratescore.score([item(*pair) for pair in pairs], params)
    assert all(isinstance(result, Score) for result in results)
    return [result for result in results if isinstance(result, Score)]


ENTITIES = {run["seed"]: run["entities"] for run in VECTORS["runs"] if "entities" in run}


def ambiguous(named: list[list[str]]) -> bool:
    """The same words as two kinds: both are the best match of a third, and the package takes either."""
    return len({words for words, _ in named}) < len({(words, kind) for words, kind in named})


@pytest.mark.parametrize("run", VECTORS["runs"], ids=lambda run: f"{run['seed']}-{run['matrix']}")
def test_ratescore_equals_the_original_package(folder: Path, run: dict[str, Any]) -> None:
    ratescore.SCORER.load(resources(folder, run["seed"]))
    params = RatescoreParams.model_validate({"matrix": run["matrix"], "no_entities_value": 0.5})
    named = ENTITIES[run["seed"]]
    sides = zip(named[: len(PAIRS)], named[len(PAIRS) :], strict=True)
    clear = [index for index, pair in enumerate(sides) if not any(map(ambiguous, pair))]
    assert len(clear) >= 5
    found = [result.value for result in scores([PAIRS[index] for index in clear], params)]
    assert found == pytest.approx([run["scores"][index] for index in clear], abs=2e-6)


def test_of_equal_matches_the_first_counts() -> None:
    ours, theirs = named(["DISEASE"], [[1, 0]]), named(["DISEASE", "NON-DISEASE"], [[1, 0], [1, 0]])
    swapped = named(["NON-DISEASE", "DISEASE"], [[1, 0], [1, 0]])
    assert similarity(ours, theirs, "long") == pytest.approx(1.0)
    assert similarity(ours, swapped, "long") == pytest.approx(WEIGHTS["long"][1])


@pytest.mark.parametrize("seed", ENTITIES)
def test_the_entities_are_those_of_the_original_package(folder: Path, seed: int) -> None:
    ratescore.SCORER.load(resources(folder, seed))
    found = weights.in_use(NER, EntityRecogniser).find(TEXTS)
    assert [[[entity.words, KINDS[entity.kind]] for entity in named] for named in found] == ENTITIES[seed]


def test_the_vectors_texts_are_cut_into_the_same_sentences_as_by_the_original_package() -> None:
    """It cuts with medspacy, which is not needed here; elsewhere the two may differ."""
    assert [[" ".join(part.split()) for part in parts] for parts in VECTORS["sentences"]] == [
        sentences(text) for text in TEXTS
    ]


# entities


def _published(labels: list[str]) -> list[tuple[int, int, str]]:
    """The published code's transitions, pair by pair of neighbouring labels: (label, next) -> what happens."""
    found: list[tuple[int, int, str]] = []
    first, kind, closed = None, "", False  # closed: the last entity ended where another one begins
    for index in range(1, len(labels) - 1):
        here, after = labels[index], labels[index + 1]
        if here == "O":
            continue
        begins, goes_on = here[0] == "B", after[0] == "I"
        if begins and goes_on:
            first, kind = index, here[2:]
        elif begins:
            found.append((index, index, here[2:]))
        elif not goes_on and first is not None:
            found.append((first, index, kind))
        if not goes_on:
            first, kind, closed = (None, "", False) if after == "O" else (index, here[2:], True)
    if first is not None and not closed:
        found.append((first, len(labels) - 2, kind))
    return found


_label = st.sampled_from(["O", *(f"{prefix}-{kind}" for kind in ("ANATOMY", "DISEASE") for prefix in "BI")])


@given(st.lists(_label, min_size=2, max_size=9))
@settings(max_examples=500)
def test_spans_follow_the_published_transitions(labels: list[str]) -> None:
    assert spans(labels) == _published(labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-X I-X O O", [(1, 2, "X")]),
        ("O B-X B-Y I-Y O O", [(1, 1, "X"), (2, 3, "Y")]),
        ("O I-X I-X O O", []),
        ("O B-X I-Y I-X B", [(1, 3, "X")]),
        ("O O B-X I-X I-X", [(2, 3, "X")]),
        ("O B-Y B-X I-X I-X", [(1, 1, "Y")]),
        ("B-X I-X O", []),
        ("O O", []),
    ],
)
def test_an_entity_begins_with_b_and_goes_on_with_i(labels: str, expected: list[tuple[int, int, str]]) -> None:
    assert spans([label + ("-X" if label in "BI" else "") for label in labels.split()]) == expected


def _pieces_read(model: EntityRecogniser, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    read: list[list[int]] = []
    inner = model._labels_of

    def recorded(batch: list[list[int]]) -> list[list[str]]:
        read.extend(batch)
        return inner(batch)

    monkeypatch.setattr(model, "_labels_of", recorded)
    return read


def test_a_sentence_longer_than_the_model_reads_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = weights.in_use(NER, EntityRecogniser)
    read = _pieces_read(model, monkeypatch)
    model.find(["left " * 1200])
    assert sorted(map(len, read)) == [1200 - 2 * (NER_TOKENS - 2) + 2, NER_TOKENS, NER_TOKENS]


def test_a_sentence_that_texts_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = weights.in_use(NER, EntityRecogniser)
    read = _pieces_read(model, monkeypatch)
    model.find(["No effusion. Clear lungs.", "Clear lungs. No effusion.", "No effusion."])
    assert len(read) == 2


def test_a_text_gets_the_same_score_alone_and_in_a_batch() -> None:
    together = scores(PAIRS)
    REFERENCES.limit(DEFAULT_MIB * 2**20)
    alone = [scores([pair])[0] for pair in PAIRS]
    assert [result.value for result in together] == pytest.approx([result.value for result in alone], abs=1e-5)


def test_an_entity_longer_than_30_tokens_is_embedded_by_its_beginning() -> None:
    long, longer, other = weights.in_use(EMBEDDING, EntityEncoder).encode(["lung " * 28, "lung " * 90, "lung " * 27])
    np.testing.assert_allclose(long.vector, longer.vector, atol=1e-6)
    assert np.abs(long.vector - other.vector).max() > 1e-3
    assert [long.surplus, longer.surplus, other.surplus] == [0, 62, 0]


# the formula


def named(kinds: list[str], vectors: list[list[float]]) -> Entities:
    rows = np.array(vectors, dtype=np.float32)
    return Entities(
        np.array([KINDS.index(kind) for kind in kinds]), rows / np.linalg.norm(rows, axis=1, keepdims=True), 0, 0
    )


def test_a_denied_finding_is_penalised_and_weighted_by_both_kinds() -> None:
    table, penalty = WEIGHTS["long"]
    ours = named(["DISEASE", "ANATOMY"], [[1, 0], [0, 1]])
    theirs = named(["NON-DISEASE", "ANATOMY"], [[1, 0], [3, 4]])
    disease, denied, anatomy = (KINDS.index(kind) for kind in ("DISEASE", "NON-DISEASE", "ANATOMY"))
    first, second = table[disease, denied], table[anatomy, anatomy]
    expected = (first * penalty * 1.0 + second * 0.8) / (first + second)
    assert similarity(ours, theirs, "long") == pytest.approx(expected, abs=1e-6)
    assert penalty < 1.0


def test_only_found_against_denied_is_penalised() -> None:
    pairs = {(KINDS[a], KINDS[b]) for a, b in zip(*np.nonzero(DENIALS), strict=True)}
    found, denied = ("ABNORMALITY", "DISEASE"), ("NON-ABNORMALITY", "NON-DISEASE")
    assert pairs == {(a, b) for a in found for b in denied} | {(b, a) for a in found for b in denied}


def test_the_published_tables_are_as_published() -> None:
    """Three entries of each, row by own kind, column by the match's."""
    long, short = WEIGHTS["long"], WEIGHTS["short"]
    assert (long[0][3, 2], long[0][2, 3], long[1]) == (0.9950209388542061, 0.4592143222158069, 0.8716553966489615)
    assert (short[0][3, 2], short[0][2, 3], short[1]) == (0.9637659445696822, 0.0006059634829551632, 0.3611577852354489)


def test_many_entities_are_compared_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    ours = named([*KINDS] * 4, random.normal(size=(20, 3)).tolist())
    theirs = named([*KINDS], random.normal(size=(5, 3)).tolist())
    whole = similarity(ours, theirs, "short")
    monkeypatch.setattr(clinical, "_ROWS", 3)
    assert similarity(ours, theirs, "short") == pytest.approx(whole)


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_f1_stays_in_range_where_the_packages_formula_does_not(precision: float, recall: float) -> None:
    assert 0.0 <= f1(precision, recall) <= 1.0
    assert f1(precision, recall) == f1(recall, precision)
    if precision > 0.0:
        assert f1(precision, precision) == pytest.approx(precision)


# the scorer


def test_precision_is_the_answers_side_and_counts_are_told() -> None:
    (result,) = scores([("Small left pleural effusion.", "Large opacity in the left lung. Heart size is normal.")])
    assert result.details["entities"] > 0
    assert result.details["reference_entities"] > 0
    answer, reference = (
        clinical.entities(["Small left pleural effusion."])[0],
        clinical.reference_entities(["Large opacity in the left lung. Heart size is normal."])[0],
    )
    assert result.details["precision"] == pytest.approx(similarity(answer, reference, "long"))
    assert result.details["recall"] == pytest.approx(similarity(reference, answer, "long"))
    assert result.value == pytest.approx(f1(result.details["precision"], result.details["recall"]))


def test_repeated_entities_are_told() -> None:
    text = "Small left pleural effusion."
    once, twice = scores([(text, text), (f"{text} {text}", text)])
    assert once.details["repeated_entities"] == 0
    assert twice.details["repeated_entities"] == once.details["entities"] > 0


def test_entities_that_are_not_read_to_their_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long, other = clinical.Entity("lung", 2), clinical.Entity("lung " * 90, 2), clinical.Entity("left " * 40, 2)
    found = {"answer": [short, long, long, other], "reference": [long], "short": [short]}
    monkeypatch.setattr(EntityRecogniser, "find", lambda _, texts: [found[text] for text in texts])
    cut, whole = scores([("answer", "reference"), ("short", "reference")])
    assert cut.details["truncated_entities"] == 3
    assert whole.details["truncated_entities"] == 0


@pytest.mark.parametrize("answer", ["", " \n", "...", "ab"])
def test_an_answer_that_names_nothing_gets_nothing(answer: str) -> None:
    assert scores([(answer, "Small left pleural effusion.")])[0].value == 0.0


def test_silence_gets_nothing_even_with_the_packages_half_point() -> None:
    half = RatescoreParams(no_entities_value=0.5)
    silent, empty = scores([("", "Small effusion."), ("...", "Small effusion.")], half)
    assert (silent.value, empty.value) == (0.0, 0.5)


def test_a_blank_reference_is_an_error() -> None:
    (result,) = ratescore.score([item("Small effusion.", " ")], NAMING_ALL)
    assert isinstance(result, ScoreError)
    assert result.code == "missing_input"


def test_a_groups_reference_is_read_once() -> None:
    before = REFERENCES.misses
    scores([(text, "A reference of its own.") for text in TEXTS])
    assert REFERENCES.misses - before == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(), max_size=40), min_size=1, max_size=3), st.text(max_size=40))
def test_any_text_gets_a_value_in_range_or_an_error(answers: list[str], report: str) -> None:
    results = ratescore.score([item(answer, report) for answer in answers], NAMING_ALL)
    assert len(results) == len(answers)
    assert all(isinstance(result, ScoreError) or 0.0 <= result.value <= 1.0 for result in results)


# loading


def test_what_is_missing_of_both_models_is_named_at_once(tmp_path: Path) -> None:
    nowhere = ModelSettings(folder=tmp_path)
    with pytest.raises(NotReadyError) as caught:
        ratescore.SCORER.load(Resources(models={NER: nowhere, EMBEDDING: nowhere}))
    for words in (f"hf download {clinical.NER_REPO}", f"hf download {clinical.EMBEDDING_REPO}", "model.safetensors"):
        assert words in caught.value.remedy


def test_another_models_files_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "ner-6" / "tokenizer.json").read_bytes())
    config = json.loads((folder / "ner-6" / "config.json").read_text())
    swapped = ModelSettings(folder=tmp_path, device="cpu")
    good = resources(folder).models[EMBEDDING]
    for labels, weights_of in (({"0": "O", "1": "B-PER"}, "ner-6"), (config["id2label"], "embedding-6")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": labels}))
        (tmp_path / "model.safetensors").write_bytes((folder / weights_of / "model.safetensors").read_bytes())
        with pytest.raises(NotReadyError, match=r"ratescore_ner: .*again"):
            ratescore.SCORER.load(Resources(models={NER: swapped, EMBEDDING: good}))
