"""Rows of a user's file as items: what is taken, what is refused, and that no refusal quotes a text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.rows import item_from_row
from rewards.wire import Item
from schemas.errors import DataError

SECRET = "left pneumothorax of Mrs Example"
BOX = [0.1, 0.2, 0.3, 0.4]


def build(**row: Any) -> Item:
    return item_from_row(row, "row 7", "7")


def refused(**row: Any) -> str:
    with pytest.raises(DataError) as error:
        build(**row)
    assert SECRET not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("column", ["completion", "prediction"])
def test_a_text_and_its_reference_make_a_report_item(column: str) -> None:
    item = build(**{column: "Clear.", "reference": "Clear lungs."})
    assert (item.id, item.task, item.completion) == ("7", "report", "Clear.")
    assert item.reference.report == "Clear lungs."


@pytest.mark.parametrize("boxes", [[BOX], [{"box": BOX, "label": None}]])
def test_boxes_make_a_grounding_item(boxes: Any) -> None:
    item = build(completion="[0, 0, 1, 1]", boxes=boxes, box_format="radvlm")
    assert item.task == "grounding"
    assert item.reference.boxes is not None
    assert item.reference.boxes[0].box == tuple(BOX)


def test_no_box_is_a_reference_too() -> None:
    assert build(completion="None.", boxes=[], box_format="radvlm").reference.boxes == ()


def test_labels_make_a_classification_item() -> None:
    assert build(completion="edema", labels=["edema"]).task == "classification"


def test_a_wire_item_is_taken_as_it_is() -> None:
    wire = {
        "id": "a",
        "task": "grounding",
        "completion": "x",
        "box_format": "qwen3vl",
        "reference": {"boxes": [{"box": BOX, "label": "nodule"}], "report": "A nodule.", "labels": ["nodule"]},
        "question": "Where?",
        "thinking": True,
        "token_count": 3,
        "finish_reason": "length",
    }
    assert build(**wire) == Item.model_validate(wire)


def test_absent_columns_and_nulls_are_the_same() -> None:
    nulls = dict.fromkeys(["prediction", "boxes", "labels", "question", "task", "id", "token_count"])
    assert build(completion="a", reference="b", **nulls) == build(completion="a", reference="b")
    nulls_inside = {"report": "b", "boxes": None, "labels": None}
    assert build(completion="a", reference=nulls_inside) == build(completion="a", reference="b")


def test_columns_that_are_not_ours_are_left_alone() -> None:
    assert build(completion="a", reference="b", image=b"...", report_id=3, split="test").id == "7"


@pytest.mark.parametrize(("slip", "name"), [("references", "reference"), ("box_fromat", "box_format")])
def test_a_slip_of_a_known_column_is_named(slip: str, name: str) -> None:
    message = refused(completion=SECRET, reference=SECRET, **{slip: SECRET})
    assert f"given: {slip}" in message
    assert f"rename it to {name}" in message


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"reference": "b"}, "row 7: completion: must be given once, as completion or prediction; given: neither"),
        ({"completion": SECRET, "prediction": SECRET, "reference": "b"}, "given: both"),
        ({"completion": SECRET}, "row 7: reference: must be given, or boxes, or labels; given: nothing"),
        ({"completion": SECRET, "reference": 3}, "row 7: reference: must be a text, or an object"),
        ({"completion": SECRET, "reference": {}}, "row 7: task: must be given"),
        ({"completion": SECRET, "reference": SECRET, "labels": ["a"]}, "row 7: task: must be given"),
        ({"completion": SECRET, "reference": {"report": SECRET}, "labels": ["a"]}, "put it into the object"),
        ({"completion": SECRET, "boxes": [BOX]}, "row 7: box_format: must be radvlm or qwen3vl"),
        ({"completion": SECRET, "reference": SECRET, "task": "reprot"}, "'reprot'"),
        ({"completion": 5, "reference": SECRET}, "row 7: completion: Input should be a valid string; given: 5"),
        ({"completion": "a", "reference": {"report": [SECRET]}, "task": "report"}, "given: list of 1"),
        ({"completion": "a", "reference": SECRET, "question": [SECRET]}, "row 7: question"),
        ({"completion": "a", "reference": SECRET, "thinking": SECRET}, "row 7: thinking"),
        ({"completion": "a\ud800", "reference": SECRET}, "row 7: completion"),
        (
            {"completion": "a", "boxes": [[0.3, 0.2, 0.1, 0.4]], "box_format": "radvlm"},
            "row 7: reference.boxes[0]: a box needs x1 < x2 and y1 < y2",
        ),
        (
            {"completion": "a", "boxes": [[10, 20, 30, 40]], "box_format": "radvlm"},
            "row 7: reference.boxes[0].box[0]: Input should be less than or equal to 1; given: 10",
        ),
        ({"completion": "a", "boxes": SECRET, "box_format": "radvlm"}, "row 7: reference.boxes"),
        ({"completion": "a", "boxes": [{"label": SECRET}], "box_format": "radvlm"}, "given: nothing"),
    ],
)
def test_a_bad_row_is_one_line_with_field_rule_value_and_remedy(row: dict[str, Any], says: str) -> None:
    message = refused(**row)
    assert says in message
    assert "\n" not in message
    assert message.count(";") >= 2


def test_of_a_wrong_text_only_the_length_is_told() -> None:
    assert f"a text of {len(SECRET)} characters" in refused(completion="a", reference="b", token_count=SECRET)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["box", "label", "report"]), inner),
    max_leaves=6,
)
COLUMNS = ["completion", "prediction", "reference", "boxes", "labels", "task", "box_format", "question", "token_count"]


@given(st.dictionaries(st.sampled_from(COLUMNS), VALUES))
def test_any_row_is_an_item_or_a_refusal_without_its_text(row: dict[str, Any]) -> None:
    message = ""
    try:
        build(**row)
    except DataError as error:
        message = str(error)
    assert SECRET not in message
