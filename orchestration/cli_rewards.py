"""``overread rewards``: the reward service on its own, and files scored with it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from rewards.rows import COLUMN_HELP

rewards_app = typer.Typer(
    help="Serve rewards over HTTP; score files.",
    epilog="Example: `overread rewards serve --port 8008`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

_SCORE_HELP = f"""Score a file of completions: means with 95 % intervals, and a result a row with --out.

FILE is .jsonl or .parquet: a completion a row, or the groups that a run recorded (`rollouts/step-*.parquet`,
`evaluations/*.parquet`), scored against their prompts' references. Columns of a row:

{COLUMN_HELP}
- `patient_id`: may be left out; whole patients are resampled for the intervals.

Other columns are left alone. All rows are checked before the first is scored. Without `--address` a local service is
started, and ended afterwards.
"""


@rewards_app.command(epilog="Example: `overread rewards serve --port 8008`, then open http://127.0.0.1:8008/docs")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8008,
    config: Annotated[Path | None, typer.Option(help="TOML file with the keys of a recipe's [reward] table.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Scorer processes; default: one a core, at most 8.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer tokens, one a line; else OVERREAD_REWARD_TOKENS.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without a token.")] = False,
    replicas: Annotated[int | None, typer.Option(min=1, help="Replicas on a Ray cluster, behind Ray Serve.")] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="Replicas at most; scaled with the load.")] = None,
    gpus_per_replica: Annotated[float | None, typer.Option(min=0, help="GPUs of a replica, e.g. 0.5.")] = None,
    cpus_per_replica: Annotated[float | None, typer.Option(min=0, help="Cores of a replica.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, e.g. auto; default: RAY_ADDRESS, else one of its own.")
    ] = None,
) -> None:
    """Serve scores over HTTP until SIGTERM or Ctrl-C; requests in flight are finished first."""
    from rewards.serve import check_exposure, read_settings
    from rewards.serve import serve as serve_rewards
    from rewards.tokens import find_tokens

    settings = read_settings(config)
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    tokens = find_tokens(token_file or settings.token_file)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asked = {
        "replicas": replicas,
        "max_replicas": max_replicas,
        "gpus_per_replica": gpus_per_replica,
        "cpus_per_replica": cpus_per_replica,
    }
    if not settings.scale.replicas and ray_address is None and all(value is None for value in asked.values()):
        serve_rewards(settings, host, port, tokens=tokens, insecure=insecure)
        return
    from orchestration.serve_command import serve_replicas, with_scale

    check_exposure(host, tokens, insecure)
    serve_replicas(with_scale(settings, asked), tokens, host, port, ray_address)


@rewards_app.command(
    help=_SCORE_HELP,
    epilog="Example: `overread rewards score predictions.jsonl --scorers rouge_l,chexpert_f1 --out scores.jsonl`",
)
def score(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl or .parquet file.")],
    scorers: Annotated[
        str | None, typer.Option(help="Names, separated by commas; default: those of the row's task without weights.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A .jsonl or .parquet file: id, scores, errors of each row.")] = None,
    address: Annotated[list[str] | None, typer.Option(metavar="URL", help="A running service; repeat it.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the services' bearer token; else OVERREAD_REWARD_TOKENS.")
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option(metavar="SCORER.NAME=VALUE", help="A scorer's parameter; repeat it.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with the keys of a recipe's [reward] table.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Most rows of a request.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """``_SCORE_HELP`` is what --help shows."""
    from orchestration.score_file import make_job, score_command
    from rewards.serve import read_settings

    base = read_settings(config)
    job = make_job(file, scorers, out, base, address or [], token_file, params or [], batch, as_json)
    raise typer.Exit(asyncio.run(score_command(job)))
