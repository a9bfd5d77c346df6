"""serve: the reward service as a process.

Role: ``python -m rewards.serve`` and what ``overread rewards serve`` calls.
Input: settings, host, port, token. Output: a server that drains on SIGTERM; an address file once it is ready. A run's
own service (``--supervised``) ignores signals: the run ends it.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import logging
import os
import signal
import socket
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from pydantic import ValidationError

from rewards.app import create_app
from rewards.memory import settle_memory
from rewards.settings import RewardServiceSettings
from rewards.tokens import TOKENS_VARIABLE, find_tokens
from rewards.wire import field_problems
from schemas.errors import ConfigError, InputError

_DRAIN_S = 20  # seconds that requests in flight get after SIGTERM
_KEEP_ALIVE_S = 75  # longer than a client's pool keeps a connection, so that the client closes first
_BACKLOG = 2048

_log = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, tokens: Sequence[str], insecure: bool) -> None:
    """Raises ConfigError where anyone beyond this machine could use the service without a token."""
    if not tokens and not insecure and not is_loopback(host):
        raise ConfigError(
            "rewards.host",
            "must be a loopback address where there is no token",
            host,
            f"give --token-file or {TOKENS_VARIABLE}, or --insecure to let anyone in",
        )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises ConfigError where the address can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError("rewards.host", "must be an address of this machine", host, str(error.strerror)) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        remedy = f"{error.strerror}; choose another port, or 0 for a free one"
        raise ConfigError("rewards.port", "must be free on its host", f"{host}:{port}", remedy) from error
    return listener


def base_url(listener: socket.socket) -> str:
    """``http://host:port`` of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def write_atomically(path: Path, text: str) -> None:
    """Whoever sees the file sees all of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _exit_quietly(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


class _SupervisedServer(uvicorn.Server):
    """Ends by its supervisor's SIGKILL alone.

    A signal to a run reaches its service too (``ray job stop`` signals every child), while the run still needs scores
    to finish its step. The service keeps nothing, so there is nothing to lose when it is killed.
    """

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        _log.info("%s ignored: the supervisor ends this service", signal.Signals(sig).name)


def serve(
    settings: RewardServiceSettings,
    host: str,
    port: int,
    *,
    tokens: Sequence[str] = (),
    insecure: bool = False,
    address_file: Path | None = None,
    supervised: bool = False,
) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes the requests in flight.

    Args:
        port: 0 takes a free one.
        tokens: what clients may send; without any only a loopback host is allowed, unless ``insecure``.
        address_file: gets the base URL, atomically, when requests are answered.
        supervised: SIGTERM and SIGINT are ignored; whoever started the process ends it with SIGKILL.

    Raises:
        ConfigError: the host needs a token, or the port is taken.
    """
    check_exposure(host, tokens, insecure)
    listener = bind(host, port)
    address = base_url(listener)

    def on_ready() -> None:
        settle_memory()
        _log.info("ready at %s", address)
        if address_file is not None:
            write_atomically(address_file, address)

    app = create_app(settings, tokens, on_ready=on_ready)
    server = (_SupervisedServer if supervised else uvicorn.Server)(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_DRAIN_S,
            timeout_keep_alive=_KEEP_ALIVE_S,
            server_header=False,
        )
    )
    # uvicorn drains on the signal, then raises it again for the handler that stood before it: a drained stop is
    # status 0, not death by signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN if supervised else _exit_quietly)
    with listener:
        server.run(sockets=[listener])


def read_settings(path: Path | None) -> RewardServiceSettings:
    """The settings in a TOML file, or the defaults. Raises ConfigError naming the file and field."""
    if path is None:
        return RewardServiceSettings()
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("--config", "must be a readable TOML file", path, str(error)) from error
    try:
        return RewardServiceSettings.model_validate(values)
    except ValidationError as error:
        problem, first = field_problems(error)[0], error.errors()[0]
        if first["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(str(first["loc"][-1]), RewardServiceSettings.model_fields, n=1)
            remedy = f"did you mean {nearest[0]}?" if nearest else "the keys are in docs/recipes.md"
            raise ConfigError(f"{path}: {problem.field}", "must be a known key", first["input"], remedy) from error
        raise ConfigError(f"{path}: {problem.field}", problem.rule, first["input"], "correct the file") from error


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rewards.serve",
        description="The reward service: scores reports and boxes over HTTP.",
        epilog="example: python -m rewards.serve --port 8008, then open http://127.0.0.1:8008/docs",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8008, help="port; 0 takes a free one (8008)")
    parser.add_argument("--config", type=Path, help="TOML file with the keys of a recipe's [reward] table")
    parser.add_argument(
        "--token-file", type=Path, help=f"file with the bearer tokens, one a line (or: {TOKENS_VARIABLE})"
    )
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without a token")
    parser.add_argument("--address-file", type=Path, help="gets the base URL once the service is ready")
    parser.add_argument(
        "--supervised", action="store_true", help="ignore SIGTERM and SIGINT; whoever started it ends it with SIGKILL"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0 stopped, 2 wrong input."""
    options = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = read_settings(options.config)
        serve(
            settings,
            options.host,
            options.port,
            tokens=find_tokens(options.token_file or settings.token_file),
            insecure=options.insecure,
            address_file=options.address_file,
            supervised=options.supervised,
        )
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
