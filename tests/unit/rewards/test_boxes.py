"""Box parsers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.boxes import SCALES, ParsedBoxes, names_boxes, parse_boxes
from schemas.prompt import BoxFormat

FORMATS: tuple[BoxFormat, ...] = tuple(SCALES)
formats = st.sampled_from(FORMATS)
MIB = 2**20


def corners(parsed: ParsedBoxes) -> list[tuple[float, ...]]:
    return [pytest.approx(box.corners) for box in parsed.boxes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The nodule is at [0.10, 0.20, 0.30, 0.40].", [(0.1, 0.2, 0.3, 0.4)]),
        ("At [0.1,0.2,0.3,0.4] and [0.50, 0.50, 0.90, 0.80].", [(0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.9, 0.8)]),
        ("```json\n[[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]\n```", [(0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 1.0, 1.0)]),
        ("[0.1, 0.2, 0.3, 0.4,]", [(0.1, 0.2, 0.3, 0.4)]),
        ("[.1, .2, 3e-1, +0.4]", [(0.1, 0.2, 0.3, 0.4)]),
        ("[0.1,\n 0.2,\n 0.3, 0.4]", [(0.1, 0.2, 0.3, 0.4)]),
        ("[0.1,\x1c0.2,\u00a00.3,\u20280.4 , ]", [(0.1, 0.2, 0.3, 0.4)]),
        ('[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "label": "nodule"}]', [(0.1, 0.2, 0.3, 0.4)]),  # a list is a list
        ("['0.1', '0.2', '0.3', '0.4'] or (0.1, 0.2, 0.3, 0.4)", []),
        ("[\u0131nf, 1, 2, 3] [\u0661, 1, 1, 1] [0_1, 1, 1, 1] [0x1, 1, 1, 1] [1e, 1, 1, 1]", []),
        ("[0.1, 0.2, 0.3", []),
        ("There is no nodule [see note] [1].", []),
        ("", []),
    ],
)
def test_radvlm_boxes_are_read_from_prose(text: str, expected: list[tuple[float, ...]]) -> None:
    parsed = parse_boxes(text, "radvlm")
    assert corners(parsed) == expected
    assert parsed.invalid == 0


@pytest.mark.parametrize(
    ("text", "expected", "labels"),
    [
        ('[{"bbox_2d": [100, 200, 300, 400], "label": "nodule"}]', [(0.1, 0.2, 0.3, 0.4)], ["nodule"]),
        ('```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "nodule",},]\n```', [(0.1, 0.2, 0.3, 0.4)], ["nodule"]),
        (
            'Here: {"label": "a \\"b\\"", "bbox_2d": [0, 0, 1000, 1000,]} as asked.',
            [(0.0, 0.0, 1.0, 1.0)],
            ['a \\"b\\"'],
        ),
        ("[{'bbox_2d': [100, 200, 300, 400]}]", [(0.1, 0.2, 0.3, 0.4)], [None]),
        ('{"boxes": [{"bbox_2d": [100, 200, 300, 400], "label": ""}]}', [(0.1, 0.2, 0.3, 0.4)], [None]),
        ('[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [1, 2', [(0.1, 0.2, 0.3, 0.4)], [None]),
        ("[]", [], []),
        ('{"bbox_2d":[100,200,300,400]}', [(0.1, 0.2, 0.3, 0.4)], [None]),
        ("{bbox_2d: [100, 200, 300, 400], label: 'nodule'}", [(0.1, 0.2, 0.3, 0.4)], ["nodule"]),
        ('{"bbox_2d": [300, 400, 100, 200], "label": 5}', [(0.1, 0.2, 0.3, 0.4)], [None]),
        ('{"a": 1, "bbox_2d": [0, 0, 9, 9], "point": [4, 4]}', [(0.0, 0.0, 0.009, 0.009)], [None]),
        ('See [1]: [{"bbox_2d": [0, 0, 9, 9]}, [1]].', [(0.0, 0.0, 0.009, 0.009)], [None]),
        ('[1, {"bbox_2d": [0, 0, 9, 9]} 2]', [(0.0, 0.0, 0.009, 0.009)], [None]),
    ],
)
def test_qwen3vl_boxes_are_read_from_json_that_is_not_quite_json(
    text: str, expected: list[tuple[float, ...]], labels: list[str | None]
) -> None:
    parsed = parse_boxes(text, "qwen3vl")
    assert corners(parsed) == expected
    assert [box.label for box in parsed.boxes] == labels
    assert parsed.invalid == 0


@pytest.mark.parametrize(
    "numbers",
    [
        "0.1, 0.2, 0.1, 0.4",  # no width
        "0.1, 0.2, 0.3, 0.2",  # no height
        "nan, 0.2, 0.3, 0.4",
        "0.1, 0.2, inf, 0.4",
        "0.1, 0.2, 1e308, 0.4",
        "0.1, 0.2, 0.3",
        "0.1, 0.2, 0.3, 0.4, 0.5",
        "-0.1, 0.2, 0.3, 0.4",
        "0.1, 0.2, 0.3, 1.01",
        "100, 200, 300, 400",  # another format's scale is not guessed
        "0.1, 0.2, 0.3, 0." + "4" * 100,
    ],
)
def test_what_is_no_box_is_counted_and_not_used(numbers: str) -> None:
    parsed = parse_boxes(f"At [{numbers}].", "radvlm")
    assert parsed.boxes == ()
    assert parsed.invalid == parsed.count == 1


@pytest.mark.parametrize("numbers", ["1, 2, 3", "1, 2, 1001, 4", "-1, 2, 3, 4", "5, 5, 5, 9", '"a", 1, 2, 3', ""])
def test_a_qwen3vl_object_without_a_box_is_counted(numbers: str) -> None:
    parsed = parse_boxes(f'[{{"bbox_2d": [{numbers}], "label": "x"}}]', "qwen3vl")
    assert (parsed.boxes, parsed.invalid) == ((), 1)


@pytest.mark.parametrize(
    ("text", "boxes", "invalid"),
    [
        ("[100, 200, 300, 400]", 0, 1),
        ("[[100, 200, 300, 400], [1, 2, 3, 4]]", 0, 2),
        ('{"bbox": [100, 200, 300, 400], "label": "nodule"}', 0, 1),
        ('[{"bbox_2d": [100, 200, 300, 400]}, [1, 2, 3, 4]]', 1, 1),
        ('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [100, 200, 300, 400], "lab', 1, 1),
        ('{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]]}', 0, 1),
        ('{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [5, 6, 7, 8]}', 2, 0),
        ('{"bbox_2d": [1, 2, 3, 4], "of": {"side": "left"}}', 0, 1),
        ('{"bbox_2d": "1, 2, 3, 4"}', 0, 1),
    ],
)
def test_a_list_outside_a_readable_object_is_an_invalid_box_in_qwen3vl(text: str, boxes: int, invalid: int) -> None:
    parsed = parse_boxes(text, "qwen3vl")
    assert (len(parsed.boxes), parsed.invalid) == (boxes, invalid)


def test_thousandths_in_a_format_of_fractions_are_not_rescaled() -> None:
    parsed = parse_boxes('[{"bbox_2d": [100, 200, 300, 400], "label": "nodule"}]', "radvlm")
    assert (parsed.boxes, parsed.invalid) == ((), 1)


def test_fractions_in_a_format_of_thousandths_are_not_rescaled() -> None:
    (box,) = parse_boxes('{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}', "qwen3vl").boxes
    assert box.corners == pytest.approx((0.0001, 0.0002, 0.0003, 0.0004))


@pytest.mark.parametrize("text", ["[0.3, 0.4, 0.1, 0.2]", "[0.3, 0.2, 0.1, 0.4]", "[0.1, 0.4, 0.3, 0.2]"])
def test_swapped_corners_are_put_in_order_and_counted(text: str) -> None:
    parsed = parse_boxes(text, "radvlm")
    assert corners(parsed) == [(0.1, 0.2, 0.3, 0.4)]
    assert parsed.repaired == 1


def test_a_report_that_writes_boxes_is_noticed_in_any_format() -> None:
    assert names_boxes("Nodule at [0.1, 0.2, 0.3, 0.4].")
    assert names_boxes('{"bbox_2d": [1, 2, 3, 4]}')
    assert not names_boxes("The lungs are clear [1].")


@given(st.text(), formats)
def test_no_text_makes_a_parser_raise(text: str, box_format: BoxFormat) -> None:
    parsed = parse_boxes(text, box_format)
    assert parsed.count >= len(parsed.boxes)


SIGNS = ["[", "]", "{", "}", ",", " ", "'", '"', ":", "\\", "bbox_2d", '"bbox_2d": [', "label", ": '"]
NUMBERS = ["0.1", "1", "-", "+", ".", "e", "nan", "inf", "Infinity", "1e308", "1e-320", "1e999", "0" * 40]
ODDITIES = ["\u0131nf", "\x1c", "\u00a0", "\n", "1_0", "\u0661"]
PIECES = st.sampled_from([*SIGNS, *NUMBERS, *ODDITIES])


@given(st.lists(PIECES | st.characters(), max_size=60).map("".join), formats)
def test_no_near_miss_makes_a_parser_raise_or_give_a_box_that_is_none(text: str, box_format: BoxFormat) -> None:
    for box in parse_boxes(text, box_format).boxes:
        assert 0.0 <= box.x1 < box.x2 <= 1.0
        assert 0.0 <= box.y1 < box.y2 <= 1.0


any_number = st.floats() | st.sampled_from([1e308, -1e308, 1e-320, 0.0, 1.0, 1000.0])


@given(st.lists(any_number, min_size=4, max_size=4), formats)
def test_four_numbers_are_one_box_valid_or_not(numbers: list[float], box_format: BoxFormat) -> None:
    written = f"[{', '.join(map(str, numbers))}]"
    text = written if box_format == "radvlm" else f'{{"bbox_2d": {written}}}'
    parsed = parse_boxes(text, box_format)
    assert parsed.count == 1
    inside = all(0.0 <= number <= SCALES[box_format] for number in numbers)  # False for NaN
    x, y = ([number / SCALES[box_format] for number in numbers[axis::2]] for axis in (0, 1))
    assert len(parsed.boxes) == (inside and x[0] != x[1] and y[0] != y[1])


@pytest.mark.parametrize("depth", [1, 1_000, 100_000])
def test_a_deeply_nested_box_is_read(depth: int) -> None:
    assert corners(parse_boxes("[" * depth + "0.1, 0.2, 0.3, 0.4" + "]" * depth, "radvlm")) == [(0.1, 0.2, 0.3, 0.4)]
    nested = '{"a": [' * depth + '{"bbox_2d": [100, 200, 300, 400]}' + "]}" * depth
    assert corners(parse_boxes(nested, "qwen3vl")) == [(0.1, 0.2, 0.3, 0.4)]


@pytest.mark.parametrize("box_format", FORMATS)
def test_ten_thousand_boxes_are_all_read(box_format: BoxFormat) -> None:
    scale = SCALES[box_format]
    lists = [f"[0, 0, {scale / 2}, {scale * (i + 1) / 10_000}]" for i in range(10_000)]
    texts = lists if box_format == "radvlm" else [f'{{"bbox_2d": {written}, "label": "x"}}' for written in lists]
    parsed = parse_boxes(f"[{', '.join(texts)}]", box_format)
    assert (len(parsed.boxes), parsed.invalid) == (10_000, 0)


# Quadratic reading would take hours for each of these; the timeout is the assertion.
@pytest.mark.timeout(120)
@pytest.mark.parametrize("box_format", FORMATS)
@pytest.mark.parametrize("piece", ["[", "{", '{"bbox_2d":'])
def test_ten_megabytes_of_openings_are_read_in_linear_time(piece: str, box_format: BoxFormat) -> None:
    assert parse_boxes(piece * (10 * MIB // len(piece)), box_format).count == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("box_format", FORMATS)
@pytest.mark.parametrize("opening", ["", "[", "[1,", '{"bbox_2d": [1,', '{"bbox_2d": [1], "label": "'])
@pytest.mark.parametrize("closing", ["", "x]", "}", '"}'])
def test_long_near_misses_are_read_in_linear_time(opening: str, closing: str, box_format: BoxFormat) -> None:
    for piece in (
        "1",
        "1,",
        "1, ",
        "[0.1,",
        "[1",
        "[ ",
        " ",
        ",",
        "nan,",
        "1e",
        "{[",
        '{"bbox_2d": [',
        "bbox_2d ",
        "label:'\\",
    ):
        parsed = parse_boxes(opening + piece * (MIB // 4 // len(piece)) + closing, box_format)
        assert len(parsed.boxes) == 0
        assert parsed.invalid <= 1
