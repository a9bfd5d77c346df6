"""Corpus-level F1 and confidence intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.chexpert_labels import bit_mask
from rewards.chexpert_vocabulary import OBSERVATIONS
from rewards.corpus import Counts, Masks, macro_f1, micro_f1, observation_f1
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers.registry import scorers
from schemas.group import Score
from schemas.prompt import Reference

EDEMA, HEART, FRACTURE = (bit_mask({name}) for name in ("Edema", "Cardiomegaly", "Fracture"))

# Three reports. Edema: found once of twice. Cardiomegaly: one right, one invented. Fracture: missed.
PAIRS = [
    Masks(predicted=EDEMA | HEART, reference=EDEMA | HEART),
    Masks(predicted=HEART, reference=EDEMA),
    Masks(predicted=0, reference=FRACTURE),
]


def _counts(pair: Masks) -> Counts:
    hits = (pair.predicted & pair.reference).bit_count()
    return Counts(hits, pair.predicted.bit_count() - hits, pair.reference.bit_count() - hits)


def test_micro_f1_pools_the_counts_and_macro_f1_the_observations() -> None:
    assert micro_f1(map(_counts, PAIRS)) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert observation_f1(PAIRS) == pytest.approx({"Cardiomegaly": 2 / 3, "Edema": 2 / 3, "Fracture": 0.0})
    assert macro_f1(PAIRS) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_a_corpus_without_positives_scores_one_as_a_single_report_does() -> None:
    assert micro_f1([Counts(0, 0, 0)]) == micro_f1([]) == 1.0
    assert macro_f1([Masks(0, 0)]) == macro_f1([]) == 1.0


masks = st.integers(0, 2 ** len(OBSERVATIONS) - 1)
corpora = st.lists(st.builds(Masks, masks, masks), min_size=1, max_size=20)


@given(corpora)
def test_f1_of_a_corpus_equals_counting_sets_of_names(pairs: list[Masks]) -> None:
    def names(mask: int) -> set[str]:
        return {name for name in OBSERVATIONS if mask & bit_mask({name})}

    sets = [(names(pair.predicted), names(pair.reference)) for pair in pairs]
    expected: dict[str, float] = {}
    for name in OBSERVATIONS:
        true = sum(name in a and name in b for a, b in sets)
        wrong = sum((name in a) != (name in b) for a, b in sets)
        if true or wrong:
            expected[name] = 2 * true / (2 * true + wrong)
    assert observation_f1(pairs) == pytest.approx(expected)
    true = sum(len(a & b) for a, b in sets)
    wrong = sum(len(a ^ b) for a, b in sets)
    assert micro_f1(map(_counts, pairs)) == pytest.approx(2 * true / (2 * true + wrong) if true or wrong else 1.0)


def test_the_details_of_chexpert_f1_are_what_the_corpus_is_computed_from() -> None:
    texts = [("Small effusion. Cardiomegaly.", "Small effusion."), ("The lungs are clear.", "Pneumothorax.")]
    items = [ScoreItem("report", answer, answer, Reference(report=report)) for answer, report in texts]
    scores = [score for score in scorers()["chexpert_f1"].score(items, NoParams()) if isinstance(score, Score)]
    counts = [Counts(**{name: score.details[name] for name in Counts._fields}) for score in scores]
    pairs = [Masks(int(score.details["predicted_mask"]), int(score.details["reference_mask"])) for score in scores]
    assert micro_f1(counts) == pytest.approx(2 / (2 + 2 + 1))
    assert observation_f1(pairs) == {
        "No Finding": 0.0,
        "Cardiomegaly": 0.0,
        "Pneumothorax": 0.0,
        "Pleural Effusion": 1.0,
    }


def test_a_mask_has_the_bit_of_each_observation_in_the_vocabularys_order() -> None:
    assert [bit_mask({name}) for name in OBSERVATIONS] == [1 << index for index in range(14)]
    assert bit_mask(set(OBSERVATIONS)) == 2**14 - 1
