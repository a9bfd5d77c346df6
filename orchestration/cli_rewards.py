"""``overread rewards``: the reward service on its own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

rewards_app = typer.Typer(
    help="Serve rewards over HTTP.",
    epilog="Example: `overread rewards serve --port 8008`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@rewards_app.callback()
def _group() -> None:
    """Keeps ``serve`` a command of a group, where more will stand beside it."""


@rewards_app.command(epilog="Example: `overread rewards serve --port 8008`, then open http://127.0.0.1:8008/docs")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8008,
    config: Annotated[Path | None, typer.Option(help="TOML file with the keys of a recipe's [reward] table.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File that holds the bearer token.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond this machine without a token.")] = False,
) -> None:
    """Serve scores over HTTP until SIGTERM or Ctrl-C; requests in flight are finished first."""
    from rewards.serve import read_settings, read_token
    from rewards.serve import serve as serve_rewards

    settings = read_settings(config)
    source = token_file or settings.token_file
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve_rewards(settings, host, port, token=None if source is None else read_token(source), insecure=insecure)
