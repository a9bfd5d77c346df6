"""RadGraph-XL: the same graphs as the original package, from the same files; whatever the text and the batch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import radgraph_checkpoint as checkpoint
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.make_radgraph_vectors import REPORTS

from rewards.clinical import radgraph as clinical
from rewards.clinical.radgraph import RadGraph, load_radgraph, pruned, spans_of, words_of
from rewards.radgraph_match import Entity, Graph, Relation, complete, partial, simple
from rewards.references import DEFAULT_MIB, REFERENCES
from rewards.resources import ModelSettings, NotReadyError, Resources
from rewards.scorer import ScoreItem
from rewards.scorers.radgraph_f1 import SCORER, RadGraphF1Params
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "radgraph.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # As in a worker process; threads that wait for each other's cores cost ten times the work.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def resources(folder: Path, batch_size: int = 64) -> Resources:
    return Resources(models={"radgraph": ModelSettings(folder=folder, device="cpu", batch_size=batch_size)})


def expected(index: int) -> Graph:
    vector = VECTORS["graphs"][index]
    words = vector["text"].split()
    labels, kinds = checkpoint.ENTITY_LABELS, checkpoint.RELATION_LABELS
    return Graph(
        tuple(Entity(" ".join(words[a : b + 1]), labels[label], a, b) for a, b, label in vector["entities"]),
        tuple(Relation(source, target, kinds[kind]) for source, target, kind in vector["relations"]),
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive and the encoder's two files."""
    folder = tmp_path_factory.mktemp("published") / "radgraph"
    checkpoint.write_encoder(folder / "BiomedVLP-CXR-BERT-general")
    unpacked = checkpoint.write_unpacked(folder.parent / "unpacked")
    checkpoint.write_archive(folder / "radgraph-xl.tar.gz", unpacked)
    return folder


@pytest.fixture(scope="module")
def radgraph(published: Path) -> RadGraph:
    return load_radgraph(resources(published))


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    checkpoint.write_encoder(tmp_path / "BiomedVLP-CXR-BERT-general")
    return checkpoint.write_unpacked(tmp_path)


# The original package's graphs


@pytest.mark.parametrize("index", range(len(REPORTS)))
def test_a_report_is_cut_into_the_words_of_the_original(index: int) -> None:
    assert " ".join(words_of(REPORTS[index])) == VECTORS["graphs"][index]["text"]


def test_graphs_equal_those_of_the_original_package(radgraph: RadGraph) -> None:
    graphs = radgraph.graphs(REPORTS)
    assert graphs == [expected(index) for index in range(len(REPORTS))]
    assert len({entity.label for graph in graphs for entity in graph.entities}) >= 4
    assert {relation.label for graph in graphs for relation in graph.relations} == set(checkpoint.RELATION_LABELS)


def test_rewards_equal_those_of_the_original_package(radgraph: RadGraph) -> None:
    graphs = radgraph.graphs(REPORTS)
    for i, j, *rewards in VECTORS["rewards"]:
        pair = graphs[i], graphs[j]
        assert [level(*pair) for level in (simple, partial, complete)] == pytest.approx(rewards)


# Batches and texts


@pytest.mark.parametrize("batch_size", [1, 3])
def test_graphs_do_not_depend_on_the_batch(published: Path, radgraph: RadGraph, batch_size: int) -> None:
    other = load_radgraph(resources(published, batch_size))
    assert other.graphs(REPORTS) == radgraph.graphs(REPORTS) == [radgraph.graphs([text])[0] for text in REPORTS]


def test_equal_texts_are_annotated_once(radgraph: RadGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    annotated: list[int] = []
    annotate = radgraph._annotate
    monkeypatch.setattr(radgraph, "_annotate", lambda batch: annotated.append(len(batch)) or annotate(batch))
    first, empty, second = radgraph.graphs([REPORTS[1], "", REPORTS[1]])
    assert first is second
    assert empty == Graph()
    assert annotated == [1]


def test_long_reports_go_in_more_batches_and_give_the_graphs_that_they_give_alone(
    radgraph: RadGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = (
        "Mild edema in the left lower lobe and no effusion. ",
        "Small right opacity. ",
        "The heart is normal. ",
    )
    reports = [sentence * 100 for sentence in sentences] + ["No effusion.", "Clear lungs."]
    alone = [radgraph.graphs([report])[0] for report in reports]
    batches: list[int] = []
    annotate = radgraph._annotate
    monkeypatch.setattr(radgraph, "_annotate", lambda batch: batches.append(len(batch)) or annotate(batch))
    assert radgraph.graphs(reports) == alone
    assert batches == [5]
    batches.clear()
    monkeypatch.setattr(clinical, "_BATCH_PIECES", 450)
    assert radgraph.graphs(reports) == alone
    assert sum(batches) == 5
    assert len(batches) >= 3


def test_a_batch_of_the_longest_reports_is_bounded_whatever_their_words(
    radgraph: RadGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[int, int]] = []

    def annotate(reports: list[list[list[int]]]) -> list[clinical._Found]:
        batches.append((len(reports), sum(max(1, len(word)) for report in reports for word in report)))
        return [clinical._Found([], []) for _ in reports]

    monkeypatch.setattr(radgraph, "_annotate", annotate)
    many_words = [f"{index} " + "no " * 3000 for index in range(12)]
    many_pieces = [f"{index} " + "effusionsandedema" * 5 * 80 for index in range(12)]
    no_pieces = [f"{index} " + "\x07 " * 4000 for index in range(12)]
    radgraph.graphs([*many_words, *many_pieces, *no_pieces])
    assert all(count == 1 or size <= 16_384 for count, size in batches)
    assert max(size for _, size in batches) <= 16_384
    assert len(batches) >= 5


@pytest.mark.parametrize("text", ["", " \n\t ", "\u2028\xa0", "\\n"])
def test_a_text_without_words_has_an_empty_graph(radgraph: RadGraph, text: str) -> None:
    assert radgraph.graphs([text]) == [Graph()]


def test_a_long_report_is_annotated_to_its_end(radgraph: RadGraph) -> None:
    sentence = "Small opacity in the left lower lobe with mild edema and no effusion. "
    report = sentence * 154
    assert len(words_of(report)) > 2000
    (graph,) = radgraph.graphs([report])
    assert max(entity.end for entity in graph.entities) > 1950
    assert all(entity.end - entity.start < 5 for entity in graph.entities)


@pytest.mark.parametrize(
    "text", ["\x07", "\x07 \x00 \x01", "lungs \x07 clear", "\ud800 clear", "\U0001f600", "肺炎 肺", "é" * 300]
)
def test_unknown_characters_are_survived(radgraph: RadGraph, text: str) -> None:
    (graph,) = radgraph.graphs([text])
    assert all(0 <= entity.start <= entity.end < len(words_of(text)) for entity in graph.entities)


@settings(max_examples=60)
@given(st.lists(st.text(max_size=60), max_size=3))
def test_any_text_gets_a_graph_of_its_own_words(radgraph: RadGraph, texts: list[str]) -> None:
    for text, graph in zip(texts, radgraph.graphs(texts), strict=True):
        words = words_of(text)
        assert all(entity.tokens == " ".join(words[entity.start : entity.end + 1]) for entity in graph.entities)
        assert all(max(relation.source, relation.target) < len(graph.entities) for relation in graph.relations)


# Spans and pruning


@given(st.lists(st.integers(1, 12), max_size=5), st.integers(1, 6))
def test_spans_are_all_short_stretches_within_a_report(lengths: list[int], width: int) -> None:
    starts, ends = spans_of(np.array(lengths, dtype=np.int64), width)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == list(_spans(lengths, width))


def _spans(lengths: list[int], width: int) -> Iterator[tuple[int, int]]:
    first = 0
    for length in lengths:
        for start in range(length):
            for end in range(start, min(start + width, length)):
                yield first + start, first + end
        first += length


def test_each_report_keeps_its_own_best_spans() -> None:
    scores = np.array([5.0, 9.0, 1.0, 9.0, -3.0, -2.0, -1.0], dtype=np.float32)
    kept = pruned(scores, np.array([0, 4, 7]), np.array([3, 2]), 0.5)
    assert kept.tolist() == [False, True, False, True, False, False, True]


def test_a_share_that_is_a_whole_number_of_spans_is_not_rounded_up() -> None:
    kept = pruned(np.zeros(50, dtype=np.float32), np.array([0, 50]), np.array([30]), 0.1)
    assert kept.sum() == 3


# Files


def test_an_unpacked_archive_is_the_same_model(unpacked: Path, radgraph: RadGraph) -> None:
    assert load_radgraph(resources(unpacked)).graphs(REPORTS[:3]) == radgraph.graphs(REPORTS[:3])


def test_nothing_is_written_where_the_archive_is(published: Path, radgraph: RadGraph) -> None:
    files = {str(path.relative_to(published.parent)) for path in published.parent.rglob("*") if path.is_file()}
    assert not any("outside" in name for name in files)
    assert {name for name in files if name.startswith("radgraph/")} == {
        "radgraph/radgraph-xl.tar.gz",
        "radgraph/BiomedVLP-CXR-BERT-general/config.json",
        "radgraph/BiomedVLP-CXR-BERT-general/vocab.txt",
    }


def test_the_hugging_face_cache_is_searched(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotReadyError) as missing:
        load_radgraph(Resources())
    assert "hf download StanfordAIMI/RRG_scorers radgraph-xl.tar.gz" in missing.value.remedy
    assert "hf download microsoft/BiomedVLP-CXR-BERT-general config.json" in missing.value.remedy
    for repo, folder, names in (
        ("StanfordAIMI/RRG_scorers", published, ["radgraph-xl.tar.gz"]),
        (checkpoint.ENCODER, published / "BiomedVLP-CXR-BERT-general", ["config.json", "vocab.txt"]),
    ):
        place = tmp_path / f"models--{repo.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("a" * 40)
        snapshot = place / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        for name in names:
            (snapshot / name).symlink_to(folder / name)
    assert load_radgraph(Resources()).graphs(REPORTS[:1]) == [expected(0)]


def refusal(folder: Path) -> str:
    with pytest.raises(NotReadyError) as refused:
        load_radgraph(resources(folder))
    assert "\n" not in refused.value.remedy
    return refused.value.remedy


def test_a_missing_tokenizer_is_named(unpacked: Path) -> None:
    (unpacked / "BiomedVLP-CXR-BERT-general" / "vocab.txt").unlink()
    remedy = refusal(unpacked)
    assert "no vocab.txt" in remedy
    assert "hf download microsoft/BiomedVLP-CXR-BERT-general" in remedy


def test_a_missing_file_of_an_unpacked_archive_is_named(unpacked: Path) -> None:
    (unpacked / "weights.th").unlink()
    assert "no weights.th" in refusal(unpacked)


def test_missing_and_unexpected_weights_are_named(unpacked: Path) -> None:
    tensors = checkpoint.weights()
    lost = "_relation._relation_scorers.radgraph-xl__relation_labels.bias"
    tensors["_relation._another.weight"] = tensors.pop(lost)
    checkpoint.write_unpacked(unpacked, tensors=tensors)
    assert f"missing: {lost}, unexpected: _relation._another.weight;" in refusal(unpacked)


def test_weights_of_another_shape_are_named(unpacked: Path) -> None:
    checkpoint.write_unpacked(unpacked, feature_size=7)
    assert "size mismatch for widths.weight" in refusal(unpacked)


def test_position_ids_of_an_older_transformers_are_no_surplus(unpacked: Path) -> None:
    tensors = checkpoint.weights()
    embeddings = "_embedder.token_embedder_bert._matched_embedder.transformer_model.embeddings."
    tensors[f"{embeddings}position_ids"] = torch.arange(512)[None]
    checkpoint.write_unpacked(unpacked, tensors=tensors)
    assert load_radgraph(resources(unpacked)).graphs(REPORTS[:1]) == [expected(0)]


def test_a_cut_off_archive_is_no_crash(published: Path, tmp_path: Path) -> None:
    whole = (published / "radgraph-xl.tar.gz").read_bytes()
    (tmp_path / "radgraph-xl.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert "can't be read as a tar.gz" in refusal(tmp_path)


def test_weights_that_are_no_tensors_are_no_crash(unpacked: Path) -> None:
    (unpacked / "weights.th").write_bytes(b"<html>404</html>")
    assert "weights.th can't be loaded" in refusal(unpacked)


def test_another_models_config_is_refused(unpacked: Path) -> None:
    (unpacked / "config.json").write_text('{"model_type": "bert"}')
    assert "config.json is not RadGraph-XL's (KeyError: 'dataset_reader')" in refusal(unpacked)


def test_coreference_propagation_is_refused(unpacked: Path) -> None:
    coref = {"relation": {"spans_per_word": 0.5}, "coref": {"coref_prop": 2}}
    checkpoint.write_unpacked(unpacked, modules=coref)
    assert "coreference" in refusal(unpacked)


# The scorer


def item(answer: str, report: str) -> ScoreItem:
    return ScoreItem("report", answer, answer, Reference(report=report))


@pytest.fixture
def ready(published: Path) -> Iterator[None]:
    SCORER.load(resources(published))
    REFERENCES.limit(DEFAULT_MIB * 2**20)  # forgets what other tests have left
    yield
    REFERENCES.limit(DEFAULT_MIB * 2**20)


@pytest.mark.usefixtures("ready")
def test_the_scorer_gives_the_level_that_is_asked_for() -> None:
    assert SCORER.score is not None
    (mean,) = SCORER.score([item(REPORTS[1], REPORTS[7])], RadGraphF1Params())
    assert isinstance(mean, Score)
    rewards = next(rewards for i, j, *rewards in VECTORS["rewards"] if (i, j) == (1, 7))
    assert [mean.details[level] for level in ("simple", "partial", "complete")] == pytest.approx(rewards)
    assert mean.value == pytest.approx((mean.details["entity_f1"] + mean.details["relation_f1"]) / 2)
    for level, value in zip(("simple", "partial", "complete"), rewards, strict=True):
        (result,) = SCORER.score([item(REPORTS[1], REPORTS[7])], RadGraphF1Params.model_validate({"level": level}))
        assert isinstance(result, Score)
        assert result.value == pytest.approx(value)
        assert result.details == mean.details


@pytest.mark.usefixtures("ready")
def test_a_report_agrees_with_itself_and_a_blank_answer_with_nothing() -> None:
    assert SCORER.score is not None
    same, blank, nothing = SCORER.score(
        [item(REPORTS[1], REPORTS[1]), item("", REPORTS[1]), item("", "")], RadGraphF1Params()
    )
    assert isinstance(same, Score)
    assert isinstance(blank, Score)
    assert isinstance(nothing, Score)
    assert (same.value, blank.value, nothing.value) == (1.0, 0.0, 0.0)


@pytest.mark.usefixtures("ready")
def test_a_groups_reference_is_annotated_once() -> None:
    assert SCORER.score is not None
    hits, misses = REFERENCES.hits, REFERENCES.misses
    SCORER.score([item(answer, REPORTS[0]) for answer in REPORTS[1:5]], RadGraphF1Params())
    SCORER.score([item(REPORTS[2], REPORTS[0])], RadGraphF1Params())
    assert (REFERENCES.misses - misses, REFERENCES.hits - hits) == (1, 4)


@pytest.mark.usefixtures("ready")
def test_a_text_too_long_for_all_its_pairs_is_an_error_of_its_own_item() -> None:
    assert SCORER.score is not None
    long, good = SCORER.score([item("effusion " * 1112, "Clear."), item(REPORTS[0], REPORTS[0])], RadGraphF1Params())
    assert isinstance(long, ScoreError)
    assert long.code == "too_long"
    assert isinstance(good, Score)
