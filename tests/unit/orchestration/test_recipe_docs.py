from __future__ import annotations

import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from orchestration import recipe_docs
from orchestration.config import Recipe, nearest_key
from orchestration.recipe_docs import main, range_of, render_page, type_name, unit_of
from schemas.base import Settings

ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Sample(Settings):
    """A section for the tests."""

    share: float = Field(default=0.5, ge=0.0, lt=1.0, description="of it | all")
    colour: Colour = Field(default=Colour.RED, description="which")
    waits: tuple[Literal["a", "b"], ...] = Field(default=("a",), min_length=1, description="in order")


def test_the_page_in_docs_is_what_the_settings_models_say():
    assert main(["--check"]) == 0, "run: python -m orchestration.recipe_docs"


def test_an_out_of_date_page_is_noticed_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe_docs, "PAGE", tmp_path / "docs" / "recipes.md")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    recipe_docs.PAGE.write_text(recipe_docs.PAGE.read_text().replace("required", "optional", 1))
    assert main(["--check"]) == 1


def test_every_key_on_the_page_is_a_key_of_the_recipe_and_has_a_meaning():
    rows = ROW.findall(render_page())
    keys = [row[0] for row in rows]
    assert len(keys) == len(set(keys))
    assert all(row[4].strip() not in ("", "–") for row in rows)
    for key in (key.replace(".NAME", "") for key in keys):
        if not key.startswith("reward.params."):
            assert nearest_key(key) == key
    documented = {key.split(".")[0] for key in keys}
    assert documented == set(Recipe.model_fields)


def test_every_default_on_the_page_is_valid_toml_and_the_models_own():
    found = 0
    for key, _, default, _, _ in ROW.findall(render_page()):
        section, _, name = key.replace(".NAME", "").rpartition(".")
        if default in ("required", "left out") or section.startswith("reward.params"):
            continue
        value = tomllib.loads(f"value = {default.strip('`')}")["value"]
        model = Recipe
        for part in filter(None, section.split(".")):
            annotation = model.model_fields[part].annotation
            model = next(m for m in (annotation, *getattr(annotation, "__args__", ())) if hasattr(m, "model_fields"))
        expected = model.model_fields[name].get_default(call_default_factory=True, validated_data={})
        assert value == (list(expected) if isinstance(expected, tuple) else expected)
        found += 1
    assert found > 30


def test_types_and_ranges_read_as_words():
    fields = Sample.model_fields
    assert type_name(fields["colour"].annotation) == "`red` or `blue`"
    assert type_name(fields["waits"].annotation) == "list of `a` or `b`"
    assert type_name(Annotated[int | None, "x"]) == "whole number or left out"
    assert type_name(dict[str, float]) == "table: text → number"
    assert range_of(fields["share"]) == "≥ 0, < 1"
    assert range_of(fields["waits"]) == "not empty"
    with pytest.raises(TypeError, match="no words for the type"):
        type_name(complex)


def test_a_bar_in_a_description_does_not_break_its_table():
    row = recipe_docs._row("share", Sample.model_fields["share"])
    assert row == r"| `share` | number, ≥ 0, < 1 | `0.5` | – | of it \| all |"


@pytest.mark.parametrize(
    ("key", "description", "unit"),
    [
        ("rollout.group_deadline_s", "seconds until", "s"),
        ("rollout.max_tokens", "of a completion", "tokens"),
        ("bounds.logprob_gap", "largest gap", "nats"),
        ("evaluation.every", "steps between evaluations", "steps"),
        ("rollout.tolerance", "nats; how far", "nats"),
        ("seed", "of prompt order", "–"),
    ],
)
def test_units_come_from_names_and_descriptions(key: str, description: str, unit: str):
    assert unit_of(key, description) == unit
