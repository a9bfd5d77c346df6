from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import prompts.phantoms
from prompts.images import load_image
from prompts.phantoms import corpus, write_phantoms
from prompts.store import read_conversations, read_prompts
from schemas.errors import DataError
from schemas.prompt import Conversation, Prompt

COUNT, SEED = 60, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantoms(out, COUNT, SEED)
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Prompt]:
    return read_prompts(folder)


@pytest.fixture(scope="module")
def conversations(folder: Path) -> list[Conversation]:
    return read_conversations(folder)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_same_count_and_seed_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "again", COUNT, SEED)
    assert digests(tmp_path / "again") == digests(folder)


def test_another_seed_gives_other_films(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "other", 3, SEED + 1)
    for name in ("000000", "000001", "000002"):
        other, ours = (root / f"images/{name}.png" for root in (tmp_path / "other", folder))
        assert other.read_bytes() != ours.read_bytes()


def test_a_film_does_not_depend_on_how_many_follow(folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", 7, SEED)
    for index in range(7):
        few, many = (root / f"images/{index:06d}.png" for root in (tmp_path / "few", folder))
        assert few.read_bytes() == many.read_bytes()


def test_manifest_says_what_was_made(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {
        "generator_version": prompts.phantoms.GENERATOR_VERSION,
        "count": COUNT,
        "seed": SEED,
    }


def test_every_film_has_one_report_prompt_and_a_readable_picture(rows: list[Prompt]) -> None:
    reports = [row for row in rows if row.task == "report"]
    assert len(reports) == COUNT == len({row.study_id for row in rows})
    for row in reports[:5]:
        (image,) = row.images
        pixels = load_image(image)
        assert pixels.shape == (image.height, image.width, 3) == (192, 192, 3)
        assert pixels.std() > 20


def test_no_patient_is_in_two_splits_though_some_have_several_films(rows: list[Prompt]) -> None:
    splits, films = defaultdict(set), defaultdict(set)
    for row in rows:
        splits[row.patient_id].add(row.split)
        films[row.patient_id].add(row.study_id)
    assert all(len(found) == 1 for found in splits.values())
    assert sum(len(found) > 1 for found in films.values()) >= 5
    assert {row.split for row in rows} == {"train", "validation", "test"}


def test_films_of_one_patient_share_their_anatomy_but_not_their_pixels(rows: list[Prompt]) -> None:
    lungs = defaultdict(dict)
    for row in rows:
        for box in row.reference.boxes or ():
            if box.label == "right lung":
                lungs[row.patient_id][row.study_id] = box.x2 - box.x1
    pairs = [list(widths.values()) for widths in lungs.values() if len(widths) > 1]
    assert pairs
    assert all(max(widths) - min(widths) <= 2 / 192 for widths in pairs)


def test_grounding_questions_name_what_the_boxes_hold(rows: list[Prompt]) -> None:
    grounding = [row for row in rows if row.task == "grounding"]
    assert len(grounding) >= COUNT
    for row in grounding:
        assert row.box_format == "radvlm"
        assert row.reference.boxes
        plural = len(row.reference.boxes) > 1
        for box in row.reference.boxes:
            noun = (box.label or "").removeprefix("left ").removeprefix("right ") if plural else box.label
            assert f"{noun}{'s' if plural else ''}" in row.question


def test_conversations_teach_train_prompts_only_and_one_answer_each(
    rows: list[Prompt], conversations: list[Conversation]
) -> None:
    train = {row.prompt_id: row for row in rows if row.split == "train"}
    assert Counter(c.conversation_id for c in conversations) == Counter(train.keys())
    for conversation in conversations:
        question, answer = conversation.turns
        assert question.text == train[conversation.conversation_id].question
        assert answer.is_answer
        assert conversation.split == "train"


def test_report_references_are_the_truth_and_answers_are_not(
    rows: list[Prompt], conversations: list[Conversation]
) -> None:
    truth = {row.prompt_id: row.reference.report for row in rows if row.reference.report is not None}
    answers = {c.conversation_id: c.turns[1].text for c in conversations if c.conversation_id in truth}
    assert not any("prior" in report for report in truth.values())
    with_prior = sum("prior study" in answer for answer in answers.values())
    assert 0.6 * len(answers) < with_prior < 0.9 * len(answers)
    forgotten = sum(
        sentence not in answers[name]
        for name in answers
        for sentence in (part.strip() for part in truth[name].split(".") if part.strip())
    )
    sentences = sum(truth[name].count(".") for name in answers)
    assert 0.12 < forgotten / sentences < 0.38


def test_corpus_holds_every_word_that_is_ever_written(rows: list[Prompt], conversations: list[Conversation]) -> None:
    known = {word.strip(".,?[]") for sentence in corpus() for word in sentence.split()}
    written = [row.question for row in rows] + [row.reference.report or "" for row in rows]
    written += [turn.text for conversation in conversations for turn in conversation.turns]
    assert {word.strip(".,?[]") for text in written for word in text.split()} <= known
    assert {f"{step / 100:.2f}" for step in range(101)} <= known
    assert len([word for word in known if not word[:1].isdigit()]) < 120


def test_reports_are_short_enough_for_a_tiny_model(rows: list[Prompt]) -> None:
    reports = [row.reference.report for row in rows if row.reference.report is not None]
    assert max(len(report.split()) for report in reports) <= 48
    assert {report.count(".") for report in reports} <= {3, 4, 5}


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    true_draw = prompts.phantoms.draw_film

    def interrupted(*arguments: object) -> object:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(1)
        return true_draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prompts.phantoms, "draw_film", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "out", 10, 0)
    assert len(drawn) == 3
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_and_left_alone(folder: Path) -> None:
    before = digests(folder)
    with pytest.raises(DataError, match="must not exist yet"):
        write_phantoms(folder, 3, 0)
    assert digests(folder) == before


@pytest.mark.parametrize(("count", "seed", "field"), [(0, 0, "count"), (-3, 0, "count"), (3, -1, "seed")])
def test_numbers_out_of_range_are_refused(tmp_path: Path, count: int, seed: int, field: str) -> None:
    with pytest.raises(DataError) as caught:
        write_phantoms(tmp_path / "out", count, seed)
    assert caught.value.field == field
    assert not (tmp_path / "out").exists()


def test_one_film_is_a_data_set_too(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "one", 1, 0)
    assert {row.split for row in read_prompts(tmp_path / "one")} == {"train"}
    assert len(read_prompts(tmp_path / "one", tasks=["report"])) == 1
