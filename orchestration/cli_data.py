"""``overread data``: convert, make and look at prompts; build the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from schemas.errors import ConfigError

data_app = typer.Typer(
    help="Convert, make and look at data.",
    epilog="Example: `overread data phantoms my-phantoms --count 200 --seed 1`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def _must_be_new(out: Path) -> None:
    if out.exists():
        raise ConfigError("OUT", "must not exist yet", out, "choose another folder, or delete that one")


@data_app.command(epilog="Example: `overread data convert jsonl my-data.jsonl my-prompts`")
def convert(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Kind of the source: jsonl.")],
    source: Annotated[Path, typer.Argument(metavar="SRC")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for prompts.parquet.")],
) -> None:
    """Convert a data set to prompts. docs/quickstart.md shows the JSON lines that `jsonl` reads."""
    from prompts.converters import CONVERTERS

    if name not in CONVERTERS:
        raise ConfigError("NAME", f"must be one of: {', '.join(sorted(CONVERTERS))}", name, "choose one of them")
    _must_be_new(out)
    typer.echo(f"wrote {CONVERTERS[name](source, out)} prompts to {out}")


@data_app.command(epilog="Example: `overread data phantoms my-phantoms --count 200 --seed 1`")
def phantoms(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    count: Annotated[int, typer.Option(min=1, help="Films.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Same count and seed, same films.")] = 0,
) -> None:
    """Draw phantom chest films with known truth: pictures, prompts and SFT conversations."""
    from prompts.phantoms import write_phantoms

    _must_be_new(out)
    write_phantoms(out, count, seed)
    typer.echo(f"wrote {count} films to {out}")


@data_app.command("tiny-model", epilog="Example: `overread data tiny-model my-tiny-model`")
def tiny_model(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
) -> None:
    """Build a tiny Qwen3-VL from scratch: real architecture, own tokenizer, random weights."""
    from orchestration.assets import make_tiny_model

    _must_be_new(out)
    make_tiny_model(out, seed)
    typer.echo(f"wrote {out}")


@data_app.command(epilog="Example: `overread data show .cache/overread/phantoms-2400-0`")
def show(
    path: Annotated[Path, typer.Argument(metavar="P", help="Folder or parquet file of prompts.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Summarise prompts in numbers: splits, tasks, patients, pictures, boxes. Never shows text."""
    from prompts.describe import describe

    summary = describe(path)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    console = Console()
    for name, value in summary.model_dump(mode="json").items():
        console.print(f"[bold]{name.replace('_', ' ')}[/]: {escape(str(value))}")
