"""label_f1: how answers are read, and the score."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.scorer import ScoreItem
from rewards.scorers.label_f1 import SCORER, read_labels
from schemas.group import Score
from schemas.prompt import Reference


def scored(answer: str, reference: tuple[str, ...], **params: float) -> Score:
    item = ScoreItem("classification", answer, answer.strip(), Reference(labels=reference))
    assert SCORER.score is not None
    (result,) = SCORER.score([item], SCORER.params.model_validate(params))
    assert isinstance(result, Score)
    return result


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Edema", {"edema"}),
        ("Edema, Pleural Effusion; Cardiomegaly", {"edema", "pleural effusion", "cardiomegaly"}),
        ("edema and Pleural  effusion & fracture.", {"edema", "pleural effusion", "fracture"}),
        (
            "The following abnormalities are present: nodule/mass, edema and rib fracture.",
            {"nodule mass", "edema"} | {"rib fracture"},
        ),
        ("Yes, there is one abnormality identified: Pleural_Thickening.", {"pleural thickening"}),
        ("Findings:\n- **Edema**\n- an effusion\n", {"edema", "effusion"}),
        ("1. Edema\n2) Effusion\n(3) Edema", {"edema", "effusion"}),
        ('```json\n{"labels": ["Edema", "Lung Opacity",]}\n```', {"edema", "lung opacity"}),
        ("['Edema']", {"edema"}),
        ("Edema. Effusion! Sand and hand", {"edema", "effusion", "sand", "hand"}),
        ("Edema, no pneumothorax, without effusion", {"edema"}),
        ("No finding, Support Devices", {"support devices"}),
        ("Edema, no other abnormalities", {"edema"}),
        ("pneumonia or edema", {"pneumonia or edema"}),
        ("4th rib fracture", {"4th rib fracture"}),
        ("\u00d6dem, \u80ba\u708e", {"\u00f6dem", "\u80ba\u708e"}),
        (" ... [] 1, 2", set()),
        ("", set()),
    ],
)
def test_labels_are_read_from_a_list(text: str, labels: set[str]) -> None:
    assert read_labels(text).names == labels


@pytest.mark.parametrize(
    "text",
    [
        "No Finding",
        "no findings.",
        '["No finding"]',
        "None",
        "Normal chest X-ray.",
        "There are no detectable abnormalities on this X-ray.",
        "No abnormalities or lesions are detected on this Chest X-ray.",
        "The Chest X-ray appears to be clear of any abnormalities.",
        "This Chest X-ray shows no signs of abnormalities.",
        "Impression: no acute cardiopulmonary abnormality",
    ],
)
def test_no_finding_is_the_empty_set_and_is_said(text: str) -> None:
    assert read_labels(text) == (frozenset(), True)


@pytest.mark.parametrize(
    "text", ["", "...", "No lung lesion.", "No edema, no effusion.", "The lungs are clear.", "nonetheless"]
)
def test_other_words_do_not_say_no_finding(text: str) -> None:
    assert not read_labels(text).says_none


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Edema, Effusion", ("Effusion", "Edema"), 1.0),
        ("Edema, Effusion, Mass", ("Edema",), 0.5),  # 2 / (2 + 2)
        ("Edema", ("Edema", "Mass", "Effusion"), 0.5),
        ("edema, EDEMA, Edema.", ("Edema",), 1.0),
        ("Mass", ("Edema",), 0.0),
        ("Edema", (), 0.0),
        ("Edema", ("No Finding",), 0.0),
        ("No finding", ("Edema",), 0.0),
        ("", ("Edema",), 0.0),
        ("Support Devices", ("No Finding", "Support Devices"), 1.0),
        ("nodule/mass", ("Nodule/Mass",), 1.0),
        ("Heart and mediastinum", ("heart and mediastinum",), 1.0),
        ("Nodule without calcification", ("Nodule without calcification",), 1.0),
        ("Nodule", ("Nodule without calcification",), 0.0),
        ("", ("Nodule without calcification",), 0.0),
        ("Edema, no effusion", ("Edema", "Nodule without calcification"), 2 / 3),
        ("Edema, nodule without calcification", ("Edema",), 1.0),  # elsewhere it is still a denial
        ("No finding", ("Not otherwise specified",), 0.0),
    ],
)
def test_known_values(answer: str, reference: tuple[str, ...], expected: float) -> None:
    assert scored(answer, reference).value == pytest.approx(expected)


def test_a_right_no_finding_gets_the_chosen_value_and_silence_gets_nothing() -> None:
    for reference in ((), ("No Finding",)):
        assert scored("No finding", reference).value == 1.0
        assert scored("No finding", reference, empty_match_value=0.5).value == 0.5
        for silence in ("", "...", "I see lungs."):
            assert scored(silence, reference).value == 0.0


names = st.sets(st.sampled_from(["edema", "mass", "fracture", "lung opacity", "pleural effusion"]))


@given(names, names)
def test_details_add_up_to_the_micro_f1_of_many_samples(predicted: set[str], reference: set[str]) -> None:
    result = scored(", ".join(predicted) or "No finding", tuple(reference))
    counts = [result.details[f"{kind}s"] for kind in ("true_positive", "false_positive", "false_negative")]
    assert counts == [len(predicted & reference), len(predicted - reference), len(reference - predicted)]
    if predicted or reference:
        precision = len(predicted & reference) / len(predicted) if predicted else 0.0
        recall = len(predicted & reference) / len(reference) if reference else 0.0
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert result.value == pytest.approx(expected)


@given(names, names, st.sampled_from(["tuberculosis", "lungs seen", "scoliosis"]))
def test_a_false_label_never_raises_the_score(predicted: set[str], reference: set[str], extra: str) -> None:
    before = scored(", ".join(predicted) or "No finding", tuple(reference)).value
    assert scored(", ".join([*predicted, extra]), tuple(reference)).value <= before


@given(st.lists(st.sampled_from(["no", "not", "without", "edema", "and", "a", "mass"]), min_size=1, max_size=5))
def test_whoever_repeats_the_reference_is_right(words: list[str]) -> None:
    label = " ".join(words)
    assert scored(label, (label,)).value == 1.0 or not read_labels(label, {label}).names


@given(st.text(), st.lists(st.text(max_size=20), max_size=4).map(tuple))
def test_no_text_raises(text: str, reference: tuple[str, ...]) -> None:
    assert 0.0 <= scored(text, reference).value <= 1.0


# Quadratic reading would take hours; the timeout is the assertion.
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "piece", ["a", " ", ",", "\n", "no ", "no any ", "and ", "a. ", "1 ", ": ", "\u0130,", "clear of "]
)
def test_a_long_answer_is_read_in_linear_time(piece: str) -> None:
    assert len(read_labels(piece * (2**18 // len(piece))).names) <= 1
