"""The command line: ``overread COMMAND``.

Exit status: 0 done, 1 the run failed, 2 the input is wrong (one line), 3 stopped by a signal and resumable.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from orchestration.cli_data import data_app
from orchestration.cli_rewards import rewards_app
from orchestration.config import Recipe, load_recipe
from orchestration.progress import Display
from orchestration.stop import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from schemas.errors import ConfigError, DeadlineError, InputError, OverreadError
from schemas.prompt import Split

app = typer.Typer(
    name="overread",
    help="Train chest X-ray vision-language models with GRPO: Ray, vLLM, a reward service, DeepSpeed.",
    epilog="Example: `overread train recipes/phantom-cpu.toml --steps=4 --groups_per_step=4`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(rewards_app, name="rewards")

_TYPER_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
_LEDGER_DEADLINE_S = 10.0
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file; see recipes/ and docs/recipes.md.")]


def _overrides(arguments: list[str]) -> dict[str, str]:
    """``["--rollout.group_size=4"]`` as ``{"rollout.group_size": "4"}``."""
    found: dict[str, str] = {}
    for argument in arguments:
        key, separator, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not separator:
            raise ConfigError("command line", "an override is --key=value or --section.key=value", argument, "mend it")
        found[key] = value
    return found


@app.command(
    context_settings=_OVERRIDES,
    epilog="Example: `overread train recipes/phantom-cpu.toml --steps=4 --groups_per_step=4`",
)
def train(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A TOML file; see recipes/.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="New folder of the run; default runs_dir/name.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN_DIR", help="Go on from its last checkpoint.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the plan; run nothing.")] = False,
) -> None:
    """Train a policy with GRPO. `--key=value` and `--section.key=value` override the recipe."""
    from orchestration.plan import check_plan, make_plan

    if (recipe is None) == (resume is None):
        raise ConfigError("train", "needs either RECIPE or --resume RUN_DIR", "both or none", "give one of them")
    if resume is not None:
        if context.args:
            raise ConfigError("--resume", "takes no overrides", " ".join(context.args), "leave them out")
        raise typer.Exit(_resume(resume))
    assert recipe is not None
    resolved = load_recipe(recipe, _overrides(context.args))
    if dry_run:
        _show_plan(resolved)
        return
    check_plan(make_plan(resolved))
    raise typer.Exit(_train(resolved, run_dir))


def _train(recipe: Recipe, run_dir: Path | None) -> int:
    from orchestration.preflight import check_inputs
    from orchestration.run import RunFolder
    from orchestration.session import Session
    from orchestration.versions import versions

    check_inputs(recipe)
    header = [f"{name} {version}" for name, version in versions().items()]
    run = RunFolder.create(recipe, run_dir, [f"command: overread {' '.join(sys.argv[1:])}", *header])
    display = Display()
    display.note(f"run folder: {run.path}")
    return asyncio.run(Session(run, None, display).run())


def _resume(run_dir: Path) -> int:
    from orchestration.run import RunFolder
    from orchestration.session import Session

    run = RunFolder.reopen(run_dir)
    display = Display()
    checkpoint = run.latest_checkpoint()
    display.note(f"resuming {run.path} from {checkpoint.name if checkpoint else 'its start: it has no checkpoint yet'}")
    return asyncio.run(Session(run, checkpoint, display).run())


@app.command(context_settings=_OVERRIDES, epilog="Example: `overread sft recipes/phantom-cpu.toml --sft.steps=20`")
def sft(context: typer.Context, recipe: RecipeFile) -> None:
    """Make the recipe's warm start: supervised fine-tuning, loss on answers only."""
    from orchestration.sft import sft_command

    raise typer.Exit(asyncio.run(sft_command(load_recipe(recipe, _overrides(context.args)), Display())))


@app.command(
    "eval",
    epilog="Example: `overread eval runs/phantom-cpu --data .cache/overread/phantoms-2400-0 --out eval.json`",
)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run, checkpoint or model folder.")],
    data: Annotated[Path, typer.Option(help="Folder or parquet file of prompts.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    recipe: Annotated[Path | None, typer.Option(help="Engine, scorers, seed; default the run's own.")] = None,
    split: Annotated[Split, typer.Option(help="Split to evaluate on.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Prompts of each task, seeded choice.")] = 200,
) -> None:
    """Evaluate a checkpoint on held-out prompts: greedy, seeded, means with bootstrap 95 % intervals."""
    from orchestration.evaluate_command import evaluate_checkpoint

    raise typer.Exit(asyncio.run(evaluate_checkpoint(checkpoint, data, out, recipe, split, count, Display())))


@app.command(epilog="Example: `overread audit runs/phantom-cpu --json`")
def audit(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove from the ledger what became of every prompt; status 1 if one was lost or trained twice."""
    from orchestration.ledger import Ledger

    source = run_dir / "ledger.sqlite"
    if not source.is_file():
        raise ConfigError("RUN_DIR", "must be a run folder", run_dir, "give the folder that holds ledger.sqlite")
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(_copy_of_ledger(source, Path(folder)))
        figures = ledger.audit()
        ledger.close()
    if as_json:
        typer.echo(json.dumps(figures))
    else:
        for name, value in figures.items():
            typer.echo(f"{name}: {value}")
    if figures["lost"] or figures["trained_twice"]:
        raise typer.Exit(EXIT_FAILED)


def _copy_of_ledger(source: Path, folder: Path) -> Path:
    """One instant of a ledger that a run may be writing to: the run waits for the copy, not for the audit.

    Raises:
        ConfigError: the file is no ledger, or can't be read.
        DeadlineError: its writer stays inside a transaction.
    """
    copy, started = folder / source.name, time.monotonic()

    def keep_deadline(status: int, _: int, __: int) -> None:
        # A transaction takes milliseconds, but sqlite3 would wait for ever for a driver that was halted in one.
        waited = time.monotonic() - started
        if status == sqlite3.SQLITE_BUSY and waited > _LEDGER_DEADLINE_S:
            raise DeadlineError("a whole ledger", "the run that writes it", waited, "try again")

    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=0.0)) as run_ledger,
            closing(sqlite3.connect(copy)) as audited,
        ):
            run_ledger.backup(audited, progress=keep_deadline)
    except sqlite3.Error as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            remedy = "give the folder of a run, on a disk that can be read"
            raise ConfigError("RUN_DIR", f"must hold a readable ledger ({error})", source, remedy) from error
        # The run was killed inside a transaction, so nobody writes now. File and journal together are one instant;
        # opening their copies rolls back, and the run's own files stay as they are for train --resume.
        shutil.copy(source, copy)
        shutil.copy(source.with_name(f"{source.name}-journal"), folder)
    return copy


@app.command(epilog="Example: `overread export runs/phantom-cpu exported-model`")
def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
) -> None:
    """Copy the last checkpoint's weights as a Hugging Face folder."""
    from orchestration.assets import model_of

    if out.exists():
        raise ConfigError("OUT", "must not exist yet", out, "choose another folder")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(model_of(run_dir), temporary)
    temporary.rename(out)
    typer.echo(f"wrote {out}")


@app.command(epilog="Example: `overread report runs/phantom-cpu report.html`")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR")],
    out: Annotated[Path, typer.Argument(metavar="OUT.html")],
) -> None:
    """Write a run's report: one HTML file with curves, scores, films and reports before and after."""
    from orchestration.report import write_report

    if not (run_dir / "config.toml").is_file():
        raise ConfigError("RUN_DIR", "must be a run folder", run_dir, "give the folder that holds config.toml")
    write_report(run_dir, out)
    typer.echo(f"wrote {out}")


@app.command(context_settings=_OVERRIDES, epilog="Example: `overread plan recipes/one-gpu.toml`")
def plan(context: typer.Context, recipe: RecipeFile) -> None:
    """Print what a recipe would run where, and whether this machine has room for it."""
    _show_plan(load_recipe(recipe, _overrides(context.args)))


def _show_plan(recipe: Recipe) -> None:
    from orchestration.plan import check_plan, make_plan, show_plan

    made, console = make_plan(recipe), Console()
    show_plan(made, console)
    try:
        check_plan(made)
    except ConfigError as error:
        console.print(f"[bold]would be refused here[/]: {escape(str(error))}")


@app.command(epilog="Example: `overread doctor`")
def doctor() -> None:
    """Check this machine: versions, imports, known traps, memory, disk, ports. Each problem with its remedy."""
    from orchestration.doctor import run_checks, show_checks

    checks = run_checks()
    show_checks(checks, Console())
    if not all(check.ok for check in checks):
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Console entry point: turns errors into one line and an exit status."""
    os.umask(0o077)  # what any command writes, or a process that it starts, is its owner's alone: patients' data
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:  # a wrong command line
        sys.exit(_wrong_usage(error))
    except InputError as error:
        sys.stderr.write(f"overread: {error}\n")
        sys.exit(EXIT_BAD_INPUT)
    except OverreadError as error:
        sys.stderr.write(f"overread: {error}\n")
        sys.exit(EXIT_FAILED)
    if status == _TYPER_INTERRUPTED:
        sys.stderr.write("overread: interrupted at once; a run goes on from its last checkpoint with train --resume\n")
        sys.exit(EXIT_FAILED)
    sys.exit(status or EXIT_DONE)  # a command that only returns has no status


def _wrong_usage(error: typer.TyperException) -> int:
    message = error.format_message()
    if message:  # without arguments a group has printed its help already
        context: typer.Context | None = getattr(error, "ctx", None)
        command = context.command_path if context else "overread"
        sys.stderr.write(f"overread: {message.rstrip('.')}; see: {command} --help\n")
    return error.exit_code


if __name__ == "__main__":
    main()
