"""docs/recipes.md: every recipe key with its type, default, unit and meaning, made from the settings models.

Role: the page can't disagree with the code. ``python -m orchestration.recipe_docs`` writes it, ``--check`` compares.
Input: ``orchestration.config.Recipe`` and the scorers' parameters. Output: Markdown.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import types
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestration.config import Recipe
from rewards.scorers.registry import scorers

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"

_INTRO = """\
<!-- Made by `python -m orchestration.recipe_docs`. Change the settings models, not this page. -->
# Recipes

A recipe is one TOML file that describes a whole run. `overread train RECIPE` reads it, and any key can be set on the
command line as well, a section's key with its section before it:

```
overread train recipes/phantom-cpu.toml --steps=20 --rollout.group_size=4 --dry-run
```

A value on the command line is TOML where it can be (`--learner.gradient_checkpointing=true`), else plain text.
An unknown key stops the run before it starts, and the message names the nearest known key. What a run was made with,
defaults included, stands in its folder as `config.toml`, which is a recipe itself.
"""

# By the end of a key's name, then by the first word of its description.
_UNIT_BY_SUFFIX = {
    "_s": "s",
    "_mib": "MiB",
    "_bytes": "bytes",
    "_chars": "characters",
    "minutes": "min",
    "_tokens": "tokens",
    "_model_len": "tokens",
    "logprob_gap": "nats",
}
_UNIT_WORDS = (
    "bytes",
    "characters",
    "completions",
    "conversations",
    "cores",
    "engines",
    "films",
    "MiB",
    "nats",
    "processes",
    "prompts",
    "seconds",
    "steps",
    "tokens",
)
_PLAIN_TYPES: dict[object, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "left out",
}


def render_page() -> str:
    """The whole page, one table a section, in the recipe's own order."""
    parts = [_INTRO, "## Top level", "", _doc(Recipe), "", *_table(Recipe, "")]
    parts += _sections(Recipe, "")
    parts += _scorer_parameters()
    return "\n".join(parts).rstrip() + "\n"


def _sections(model: type[BaseModel], prefix: str) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            continue
        # A table of tables: its keys are names of the user's.
        path = f"{prefix}{name}.NAME" if get_origin(field.annotation) is dict else f"{prefix}{name}"
        lines += ["", f"## `[{path}]`", "", _doc(section)]
        note = f"{_sentence(field.description)} " if field.description else ""
        lines += [f"\n{note}{_need(field)}", "", *_table(section, f"{path}.")]
        lines += _sections(section, f"{path}.")
    return lines


def _need(field: FieldInfo) -> str:
    if field.is_required():
        return "This section is required."
    return "This section may be left out."


def _sentence(text: str | None) -> str:
    words = (text or "").strip()
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


def _doc(model: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].split())


def _section_of(annotation: object) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _table(model: type[BaseModel], prefix: str) -> list[str]:
    rows = [
        _row(f"{prefix}{name}", field)
        for name, field in model.model_fields.items()
        if _section_of(field.annotation) is None
    ]
    if not rows:
        return ["No keys of its own."]
    return ["| key | type | default | unit | meaning |", "|---|---|---|---|---|", *rows]


def _row(key: str, field: FieldInfo) -> str:
    limits = range_of(field)
    kind = type_name(field.annotation) + (f", {limits}" if limits else "")
    cells = (f"`{key}`", kind, _default(field), unit_of(key, field.description or ""), field.description or "")
    # A bar inside a cell would start another one.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def type_name(annotation: object) -> str:
    """A type in words: choices are listed, a list and a table say what they hold."""
    if annotation in _PLAIN_TYPES:
        return _PLAIN_TYPES[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return _choices(arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choices([member.value for member in annotation])
    if origin in (tuple, list, set, frozenset):
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return f"table: {type_name(arguments[0])} → {type_name(arguments[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    raise TypeError(f"recipe_docs has no words for the type {annotation!r}; add them to type_name")


def _choices(values: Sequence[object]) -> str:
    return " or ".join(f"`{value}`" for value in values)


def range_of(field: FieldInfo) -> str:
    """The limits of a field's value in words, empty without any."""
    words = []
    for rule in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("multiple_of", "a multiple of")):
            limit = getattr(rule, name, None)
            if limit is not None:
                words.append(f"{sign} {limit:,}" if isinstance(limit, int) else f"{sign} {limit:g}")
        if getattr(rule, "min_length", None):
            words.append("not empty")
        if getattr(rule, "pattern", None):
            words.append(f"like `{rule.pattern}`")
    return ", ".join(words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return "left out"
    return f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{key} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value, ensure_ascii=False)


def unit_of(key: str, description: str) -> str:
    """A key's unit: from the end of its name, else from the word that its description starts with; a dash if none."""
    for suffix, unit in _UNIT_BY_SUFFIX.items():
        if key.endswith(suffix):
            return unit
    first = description.replace(";", " ").replace(",", " ").split()[:1]
    return next((unit for unit in _UNIT_WORDS if first == [unit]), "–")


def _scorer_parameters() -> list[str]:
    rows = [row for name, scorer in scorers().items() for row in _table(scorer.params, f"reward.params.{name}.")[2:]]
    if not rows:
        return []
    head = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    return [
        "",
        "## Parameters of the scorers",
        "",
        "Each scorer's own, under `[reward.params.NAME]`.",
        "",
        *head,
        *rows,
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the page, or with ``--check`` compare it: 0 when it is up to date, else 1."""
    parser = argparse.ArgumentParser(prog="python -m orchestration.recipe_docs", description="Writes docs/recipes.md.")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 when the page is out of date")
    page = render_page()
    if parser.parse_args(arguments).check:
        if is_current(page):
            return 0
        sys.stderr.write("docs/recipes.md is out of date; run: python -m orchestration.recipe_docs\n")
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    return 0


def is_current(page: str) -> bool:
    """Whether docs/recipes.md is there and equals ``page``."""
    return PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
