from __future__ import annotations

import json
import re
import shutil
import stat
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic_run import SUMMARY, completion, group, make_groups, write_run

from orchestration.report import duration, verdict, write_report
from orchestration.report_films import choose_films, marked
from orchestration.report_source import EvaluationSummary, read_run, surviving_steps
from schemas.arrow import groups_to_table
from schemas.errors import ConfigError, DataError
from schemas.prompt import ImageRef, Prompt, Reference

VOID = {"meta", "input", "img", "br", "wbr", "link", "hr"}
# Tags that the page itself uses; anything else would have come from the run folder unescaped.
FORBIDDEN = {"script", "iframe", "object", "embed", "form", "link", "base", "audio", "video"}


class Page(HTMLParser):
    """A page's tags, attributes and text; fails on tags that don't balance."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "phantom-cpu")


@pytest.fixture
def own_run(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the run folder that a test may damage."""
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def page_of(run: Path, out: Path) -> Page:
    write_report(run, out)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_is_whole_small_and_readable_by_its_owner_only(run_dir: Path, tmp_path: Path):
    out = tmp_path / "report.html"
    page = page_of(run_dir, out)
    assert out.stat().st_size < 3_000_000
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "mode 0600, readable by its owner only" in page.text
    assert page.named("html")[0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} >= {a["href"] for a in page.named("a")}


def test_the_page_loads_nothing_from_outside_and_runs_no_script(run_dir: Path, tmp_path: Path):
    out = tmp_path / "report.html"
    page = page_of(run_dir, out)
    for tag, attrs in page.tags:
        assert tag not in FORBIDDEN
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,"))
    text = out.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_same_folder_gives_the_same_bytes(run_dir: Path, tmp_path: Path):
    write_report(run_dir, tmp_path / "one.html")
    write_report(run_dir, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_every_part_of_a_whole_run_is_shown(run_dir: Path, tmp_path: Path):
    page = page_of(run_dir, tmp_path / "report.html")
    assert "Not in this run's folder" not in page.text
    assert "On held-out patients soft_f1 rose from 0.331 to 0.425" in page.text
    assert "chexpert_f1 shows no change beyond chance." in page.text
    assert len(page.named("img")) == 8
    for words in (
        "60 of 60",
        "Where is the nodule?",
        "slowest weight push",
        "✕ broken",
        "reward_outage",
        "warm start",
        "2 deadline, 1 few_scores.",
    ):
        assert words in page.text
    for title in ("Reward", "soft_f1", "Staleness", "Log-probability gap", "Throughput", "Time of a step"):
        assert any(
            (svg.get("aria-label") or "").startswith(f"{title} over steps 1 to 60.") for svg in page.named("svg")
        )


def test_a_difference_is_bold_only_where_its_interval_excludes_zero(run_dir: Path, tmp_path: Path):
    write_report(run_dir, tmp_path / "report.html")
    bold = re.findall(r"<strong>([+−][0-9.]+)</strong>", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert bold == ["+0.094", "+0.092", "−0.237"]


def test_a_score_that_is_better_when_lower_says_so(run_dir: Path, tmp_path: Path):
    page = page_of(run_dir, tmp_path / "report.html")
    assert page.text.count("lower is better") == 1
    assert "prior_ references 160 prompts lower is better" in page.text


def test_every_film_shows_truth_before_and_after_in_words_and_boxes(run_dir: Path):
    record = read_run(run_dir)
    for film in choose_films(record.before, record.after):
        assert film.picture is not None
        for source in ("reference", "before", "after"):
            assert f'<g class="box {source}">' in film.overlay
        assert [question.task for question in film.questions] == ["grounding", "report"]
        for question in film.questions:
            assert [answer.source for answer in question.answers] == ["reference", "before", "after"]
            assert question.answers[2].scores


def test_films_are_chosen_without_a_look_at_their_scores(run_dir: Path):
    record = read_run(run_dir)
    worse = [group(g.prompt, "", {"soft_f1": 0.0}, 60) for g in reversed(record.after)]
    chosen = [film.study_id for film in choose_films(record.before, record.after)]
    assert [film.study_id for film in choose_films(record.before, worse)] == chosen
    assert chosen != sorted(chosen)


def test_hostile_text_stays_text(own_run: Path, tmp_path: Path):
    attack = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    prompt = Prompt(
        prompt_id=attack,
        task="report",
        question=f"{attack}?",
        reference=Reference(report=f"Lungs clear. {attack}"),
        dataset=attack,
        patient_id="p",
        study_id=f'"{attack}',
        split="test",
    )
    table = groups_to_table([group(prompt, f"No effusion. {attack}", {f"s{attack}": 0.5}, 0)])
    for name in ("before", "after"):
        pq.write_table(table, own_run / "evaluations" / f"{name}.parquet")
    summary = {**SUMMARY, "name": attack, "status": attack, "command": attack, "versions": {attack: attack}}
    summary["bounds"] = [{"what": attack, "measured": attack, "bound": 1, "unit": attack, "met": False}]
    summary["seconds"] = {attack: 3.0}
    summary["eval"] = {"after": {attack: {"mean": 0.5, "ci95": [0.4, 0.6], "n": 3}}}
    (own_run / "summary.json").write_text(json.dumps(summary))
    (own_run / "config.toml").write_text(f"# {attack}\nname = 'x'\n")
    (own_run / "events.jsonl").write_text(json.dumps({"time": 1.0, "kind": attack, attack: attack}) + "\n")
    (own_run / "metrics.jsonl").write_text(json.dumps({"step": 1, f"score/{attack}/mean": 0.3}) + "\n")
    page = page_of(own_run, tmp_path / "report.html")
    assert not FORBIDDEN & {tag for tag, _ in page.tags}
    assert not page.named("img")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count('alert("x")') >= 10


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ("summary.json", "the summary (summary.json)"),
        ("config.toml", "the recipe (config.toml)"),
        ("metrics.jsonl", "No step was finished, so there is nothing to draw."),
        ("events.jsonl", "No events are recorded for this run."),
        ("evaluations/before.parquet", "not evaluated"),
        ("evaluations/after.parquet", "the evaluation after training"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(own_run: Path, tmp_path: Path, absent: str, said: str):
    (own_run / absent).unlink()
    page = page_of(own_run, tmp_path / "report.html")
    assert said in page.text
    assert "Not in this run's folder" in page.text
    assert len(page.named("section")) == 7


def test_a_run_that_has_only_just_begun_has_a_report(tmp_path: Path):
    run = tmp_path / "new-run"
    run.mkdir()
    (run / "config.toml").write_text('name = "new-run"\nsteps = 9\n')
    (run / "metrics.jsonl").write_text("")
    (run / "summary.json").write_text("{}")
    page = page_of(run, tmp_path / "report.html")
    assert "this page can't say what training changed" in page.text
    assert "new-run" in page.text
    assert "No film to show" in page.text


@pytest.mark.parametrize("steps", [1, 2, 700])
def test_curves_work_for_one_step_and_for_many(own_run: Path, tmp_path: Path, steps: int):
    rows = [{"step": i + 1, "reward/mean": i / steps, "logprob_gap/max": None if i else 0.0} for i in range(steps)]
    (own_run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(own_run, tmp_path / "report.html")
    assert f"Reward over steps {1 if steps < 3 else 5} to {steps}." in " ".join(
        str(svg.get("aria-label")) for svg in page.named("svg")
    )
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_a_line_cut_off_by_a_kill_is_left_out_and_said(own_run: Path, tmp_path: Path):
    with (own_run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "reward/me')
    page = page_of(own_run, tmp_path / "report.html")
    assert "the last line of metrics.jsonl, which was cut off" in page.text
    assert "Reward over steps 1 to 60." in str([svg.get("aria-label") for svg in page.named("svg")])


def test_a_picture_that_is_gone_leaves_its_texts(own_run: Path, tmp_path: Path):
    # The copied parquet still names the films of the original folder.
    before, after = make_groups(own_run / "films", 3)
    shutil.rmtree(own_run / "films")
    films = choose_films(before, after)
    assert [film.picture for film in films] == [None] * 3
    assert all(film.problem == "The picture can't be read any more." for film in films)
    assert all(film.questions for film in films)


def test_a_large_film_is_embedded_small(tmp_path: Path):
    from PIL import Image

    path = tmp_path / "large.png"
    Image.effect_noise((1500, 1200), 60).save(path)
    before, _ = make_groups(tmp_path, 1)
    image = ImageRef(path=str(path), width=1500, height=1200)
    prompt = before[0].prompt.model_copy(update={"images": (image,)})
    film = choose_films([group(prompt, "", {}, 0)], [])[0]
    assert film.picture is not None
    assert len(film.picture) < 200_000
    assert 'viewBox="0 0 400 320"' in film.overlay


def test_a_failed_score_is_named_and_has_no_number(tmp_path: Path):
    from schemas.group import ScoreError

    before, _ = make_groups(tmp_path, 1)
    failed = completion("No answer.", {}, 0).model_copy(
        update={"errors": {"soft_f1": ScoreError(code="deadline", message="m")}}
    )
    film = choose_films([before[0].model_copy(update={"completions": (failed,)})], [])[0]
    answer = film.questions[0].answers[1]
    assert answer.scores == ()
    assert answer.errors == (("soft_f1", "deadline"),)


def test_words_outside_the_shared_sequence_are_marked():
    html = marked("The heart is large. No effusion.", "the heart is normal. No effusion, no edema.")
    assert re.findall(r'<span class="extra">(\w+)</span>', html) == ["large"]
    assert re.sub("<[^>]+>", "", html) == "The heart is large. No effusion."
    assert marked("", "anything") == ""
    assert "extra" not in marked("Same words here", "same words here")


def test_steps_of_an_abandoned_history_are_not_drawn():
    rows = [{"step": s, "incarnation": 0} for s in (1, 2, 3, 4)] + [{"step": 3, "incarnation": 1}]
    assert [(row["step"], row["incarnation"]) for row in surviving_steps(rows)] == [(1, 0), (2, 0), (3, 1)]
    assert surviving_steps([{"step": 1, "abandoned": True}, {"no": "step"}]) == []


def test_the_verdict_claims_no_more_than_the_intervals():
    def change(mean: float, low: float, high: float) -> dict[str, object]:
        return {"m": {"mean": mean, "ci95": [low, high], "n": 9}}

    fell = EvaluationSummary.model_validate({"difference": change(-0.2, -0.3, -0.1)})
    assert verdict(fell) == "On held-out patients m fell by 0.200."
    flat = EvaluationSummary.model_validate({"difference": change(0.2, -0.1, 0.5)})
    assert verdict(flat) == "m shows no change beyond chance."


def test_durations_read_like_durations():
    assert [duration(s) for s in (0.84, 59.6, 252.0, 3780.0)] == ["0.8 s", "1 min 00 s", "4 min 12 s", "1 h 03 min"]


@pytest.mark.parametrize("bad", ["missing", "empty"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, bad: str):
    if bad == "empty":
        (tmp_path / bad).mkdir()
    with pytest.raises(DataError, match="must be a run folder"):
        write_report(tmp_path / bad, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_can_not_be_put_there_is_refused(run_dir: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="must be a file"):
        write_report(run_dir, tmp_path)
    with pytest.raises(ConfigError, match="must lie in an existing folder"):
        write_report(run_dir, tmp_path / "no" / "report.html")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", '{"steps": "many"}'),
        ("config.toml", "name ="),
        ("metrics.jsonl", "{\n{}\n"),
        ("events.jsonl", "[1]\n"),
        ("evaluations/before.parquet", "no parquet"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(own_run: Path, tmp_path: Path, name: str, content: str):
    (own_run / name).write_text(content)
    with pytest.raises(DataError) as caught:
        write_report(own_run, tmp_path / "report.html")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
