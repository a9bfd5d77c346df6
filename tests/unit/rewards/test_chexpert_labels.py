"""The rule labeller on hand-written sentences."""

import random
import re
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards.chexpert_labels import Label, label_report, positives
from rewards.chexpert_vocabulary import MENTION_STEMS, MENTIONS, NORMAL_STATES, OBSERVATIONS, STATE_STEMS

P, N, U = Label.POSITIVE, Label.NEGATIVE, Label.UNCERTAIN
EFFUSION, PNEUMOTHORAX, DEVICES = "Pleural Effusion", "Pneumothorax", "Support Devices"
OPACITY, LESION, HEART = "Lung Opacity", "Lung Lesion", "Cardiomegaly"

# Sentence -> every label but No Finding that it must get, and no other.
SENTENCES: list[tuple[str, dict[str, Label]]] = [
    # affirmed
    ("There is a small left pleural effusion.", {EFFUSION: P}),
    ("Bilateral pleural effusions are present.", {EFFUSION: P}),
    ("Large right effusion.", {EFFUSION: P}),
    ("Blunting of the left costophrenic angle.", {EFFUSION: P}),
    ("The left costophrenic angle is blunted.", {EFFUSION: P}),
    ("Cardiomegaly is present.", {HEART: P}),
    ("The heart is enlarged.", {HEART: P}),
    ("Enlarged heart.", {HEART: P}),
    ("The cardiac silhouette is again mildly enlarged.", {HEART: P}),
    ("There is moderate enlargement of the cardiac silhouette.", {HEART: P}),
    ("Heart size is increased.", {HEART: P}),
    ("The heart is enlarged with cardiomegaly.", {HEART: P}),
    ("A small right apical pneumothorax is present.", {PNEUMOTHORAX: P}),
    ("Left hydropneumothorax.", {PNEUMOTHORAX: P, EFFUSION: P}),
    ("Focal consolidation in the right lower lung.", {"Consolidation": P}),
    ("There is a nodule in the left upper lung.", {LESION: P}),
    ("A 2.5 cm mass projects over the right hilum.", {LESION: P}),
    ("Cavitary lesion in the left apex.", {LESION: P}),
    ("Nodular opacity in the right mid lung.", {LESION: P}),
    ("Patchy opacities in both lower lobes.", {OPACITY: P}),
    ("Airspace disease at the right base.", {OPACITY: P}),
    ("Increased interstitial markings.", {OPACITY: P}),
    ("Bibasilar atelectasis.", {"Atelectasis": P}),
    ("Mild pulmonary vascular congestion.", {"Edema": P}),
    ("Findings are consistent with pulmonary edema.", {"Edema": P}),
    ("Right lower lobe pneumonia.", {"Pneumonia": P}),
    ("Old healed fracture of the left clavicle.", {"Fracture": P}),
    ("Biapical pleural thickening.", {"Pleural Other": P}),
    ("The mediastinum is widened.", {"Enlarged Cardiomediastinum": P}),
    ("There is a left pacemaker.", {DEVICES: P}),
    ("Endotracheal tube tip is 4 cm above the carina.", {DEVICES: P}),
    ("Right internal jugular central venous line terminates in the superior vena cava.", {DEVICES: P}),
    ("Right-sided PICC in place.", {DEVICES: P}),
    ("Dual-lead pacer with leads in the right atrium and ventricle.", {DEVICES: P}),
    # denied
    ("No pleural effusion or pneumothorax.", {EFFUSION: N, PNEUMOTHORAX: N}),
    ("There is no pleural effusion.", {EFFUSION: N}),
    ("No evidence of pneumothorax.", {PNEUMOTHORAX: N}),
    ("No cardiomegaly.", {HEART: N}),
    ("The heart is not enlarged.", {HEART: N}),
    ("The heart size is normal.", {HEART: N}),
    ("The heart is normal in size.", {HEART: N}),
    ("The cardiac silhouette is within normal limits.", {HEART: N}),
    ("Cardiomediastinal silhouette is unremarkable.", {HEART: N, "Enlarged Cardiomediastinum": N}),
    ("The lungs are clear.", {OPACITY: N}),
    ("Lungs are clear bilaterally without focal consolidation.", {OPACITY: N, "Consolidation": N}),
    (
        "No focal consolidation, large pleural effusion, or pneumothorax.",
        {"Consolidation": N, EFFUSION: N, PNEUMOTHORAX: N},
    ),
    ("Neither effusion nor pneumothorax.", {EFFUSION: N, PNEUMOTHORAX: N}),
    ("Pneumothorax or pleural effusion is not seen.", {PNEUMOTHORAX: N, EFFUSION: N}),
    ("Pneumothorax: none.", {PNEUMOTHORAX: N}),
    ("The lungs are free of consolidation.", {"Consolidation": N}),
    ("The effusion has resolved.", {EFFUSION: N}),
    ("There is no longer a pleural effusion.", {EFFUSION: N}),
    ("There is no longer evidence of effusion.", {EFFUSION: N}),
    ("No longer any pneumothorax.", {PNEUMOTHORAX: N}),
    ("No longer seen is the effusion.", {EFFUSION: N}),
    ("The effusion is no longer seen.", {EFFUSION: N}),
    ("Effusion no longer seen.", {EFFUSION: N}),
    ("The effusion is no longer seen, pneumothorax persists.", {EFFUSION: N, PNEUMOTHORAX: P}),
    ("Effusion no longer seen and pneumothorax has increased.", {EFFUSION: N, PNEUMOTHORAX: P}),
    ("Resolution of the right pneumothorax.", {PNEUMOTHORAX: N}),
    ("No acute bony fracture.", {"Fracture": N}),
    ("No findings to suggest pneumonia.", {"Pneumonia": N}),
    ("The film does not demonstrate consolidation.", {"Consolidation": N}),
    ("The chest tube has been removed.", {DEVICES: N}),
    ("No suspicious pulmonary nodule or mass.", {LESION: N}),
    ("The costophrenic angles are sharp.", {EFFUSION: N}),
    ("The osseous structures are intact.", {"Fracture": N}),
    ("No lines or tubes.", {DEVICES: N}),
    # "no new ..." and other words of change
    ("No new consolidation.", {"Consolidation": N}),
    ("No new focal opacity or effusion.", {OPACITY: N, EFFUSION: N}),
    ("No significant change in the small left pleural effusion.", {EFFUSION: P}),
    ("Left effusion is unchanged.", {EFFUSION: P}),
    ("The left effusion has not significantly changed.", {EFFUSION: P}),
    ("No interval increase in the right effusion.", {EFFUSION: P}),
    # doubted
    ("Cannot exclude pneumonia.", {"Pneumonia": U}),
    ("A small effusion cannot be excluded.", {EFFUSION: U}),
    ("Pneumonia is not excluded.", {"Pneumonia": U}),
    ("Possible small left effusion.", {EFFUSION: U}),
    (
        "Opacity in the left base, which may represent atelectasis or pneumonia.",
        {OPACITY: P, "Atelectasis": U, "Pneumonia": U},
    ),
    ("Findings suspicious for a nodule.", {LESION: U}),
    ("Borderline cardiomegaly.", {HEART: U}),
    ("Atelectasis versus consolidation at the left base.", {"Atelectasis": U, "Consolidation": U}),
    ("Pneumonia is unlikely.", {"Pneumonia": U}),
    ("Pneumonia unlikely.", {"Pneumonia": U}),
    ("Effusion unlikely.", {EFFUSION: U}),
    ("Small bilateral effusions suspected.", {EFFUSION: U}),
    ("Small effusion, pneumonia unlikely in this setting.", {EFFUSION: P, "Pneumonia": U}),
    ("Opacity likely atelectasis.", {OPACITY: P, "Atelectasis": U}),
    ("Opacity unlikely to represent pneumonia.", {OPACITY: P, "Pneumonia": U}),
    # several statements in one sentence
    ("No pneumothorax, small left pleural effusion.", {PNEUMOTHORAX: N, EFFUSION: P}),
    ("Small left pleural effusion, no pneumothorax.", {PNEUMOTHORAX: N, EFFUSION: P}),
    ("No pneumothorax but there is a large effusion.", {PNEUMOTHORAX: N, EFFUSION: P}),
    ("No pneumothorax is seen, and the heart is enlarged.", {PNEUMOTHORAX: N, HEART: P}),
    ("No pneumothorax following chest tube placement.", {PNEUMOTHORAX: N, DEVICES: P}),
    ("No pneumothorax, endotracheal tube in place.", {PNEUMOTHORAX: N, DEVICES: P}),
    ("No effusion; right basal consolidation.", {EFFUSION: N, "Consolidation": P}),
    ("No abnormality other than a small effusion.", {EFFUSION: P}),
    ("Heart size is normal and there is a large hiatal hernia.", {HEART: N}),
    ("The heart is enlarged without pulmonary edema.", {HEART: P, "Edema": N}),
    # not about this film, or not a finding
    ("History of pneumonia.", {}),
    ("Body mass index is high.", {}),
    ("No mass effect on the trachea.", {}),
    ("The trachea is midline.", {}),
    ("Degenerative changes of the spine.", {}),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES, ids=[sentence for sentence, _ in SENTENCES])
def test_a_sentence_gets_these_labels_and_no_other(sentence: str, expected: dict[str, Label]) -> None:
    labels = label_report(sentence)
    assert {name: label for name, label in labels.items() if name != "No Finding"} == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("The lungs are clear. No pleural effusion or pneumothorax.", True),
        ("No acute cardiopulmonary abnormality.", True),
        ("Normal chest radiograph.", True),
        ("No finding.", True),
        ("The lungs are clear. There is a left pacemaker.", True),
        ("The lungs are clear. There is cardiomegaly.", False),
        ("The lungs are clear. Possible pneumonia.", False),
        ("There is a left pacemaker.", False),
        ("", False),
        ("the the the", False),
    ],
)
def test_no_finding_needs_a_normal_statement_and_no_finding_beside_devices(report: str, expected: bool) -> None:
    assert ("No Finding" in positives(label_report(report))) is expected


def test_the_strongest_statement_about_an_observation_holds() -> None:
    assert label_report("No effusion on the right. Small left effusion.")[EFFUSION] is P
    assert label_report("Possible left effusion. No effusion on the right.")[EFFUSION] is U


def test_a_sentence_broken_over_two_lines_is_one_sentence() -> None:
    assert label_report("There is no\npleural effusion.")[EFFUSION] is N
    assert label_report("No effusion\nSmall pneumothorax") == {EFFUSION: N, PNEUMOTHORAX: P}


def test_case_does_not_matter() -> None:
    text = "There is no effusion. Large RIGHT pneumothorax. Possible edema."
    assert label_report(text.upper()) == label_report(text.lower()) == label_report(text)


@given(st.text(max_size=400))
def test_any_text_gets_only_known_labels(text: str) -> None:
    assert set(label_report(text)) <= set(OBSERVATIONS)


def _phrases() -> list[tuple[str, str, str]]:
    """(phrase, observation, its stems)."""
    return [
        (phrase, name, stems[name])
        for table, stems in ((MENTIONS, MENTION_STEMS), (NORMAL_STATES, STATE_STEMS))
        for name, phrases in table.items()
        for phrase in phrases
    ]


@pytest.mark.parametrize(("phrase", "name", "stems"), _phrases())
@settings(max_examples=30, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_phrase_matches_holds_a_stem_of_its_observation(
    phrase: str, name: str, stems: str, data: st.DataObject
) -> None:
    # A phrase without a stem would never be searched for. What stands before it in a sentence is not drawn.
    drawn = data.draw(st.from_regex(re.sub(r"\(\?<!.*?\)", "", phrase), fullmatch=True, alphabet=string.printable))
    assert any(stem in drawn for stem in stems.split()), drawn


def test_a_report_is_not_labelled_by_what_another_one_said() -> None:
    first, second = label_report("Small effusion."), label_report("No effusion.")
    assert (first[EFFUSION], second[EFFUSION], label_report("Small effusion.")[EFFUSION]) == (P, N, P)
    with pytest.raises(TypeError):
        first[EFFUSION] = N  # type: ignore[index]


def test_random_letters_are_no_findings() -> None:
    letters = random.Random(0)
    text = " ".join("".join(letters.choices(string.ascii_lowercase, k=7)) for _ in range(500))
    assert label_report(text) == {}
