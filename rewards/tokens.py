"""Tokens: the bearer tokens of a reward service, and of whoever calls one.

Role: the one place that reads a token file or the environment; light, so that clients need no server's libraries.
Input: a file (a token a line, ``#`` starts a comment), or OVERREAD_REWARD_TOKENS (separated by spaces or commas).
Output: the tokens; a service takes any of them, a client sends the first.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import ConfigError

TOKENS_VARIABLE = "OVERREAD_REWARD_TOKENS"
_FIELD = "reward.token_file"


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens in a file. Raises ConfigError for a missing, unreadable or empty one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(_FIELD, "must be a readable text file", path, "write the token there") from error
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not tokens:
        raise ConfigError(_FIELD, "must hold a token", f"{path}, empty", "write the token there")
    return _checked(tokens, str(path))


def find_tokens(path: Path | None) -> tuple[str, ...]:
    """The tokens in the file where one is given, else in the environment, else none."""
    if path is not None:
        return read_tokens(path)
    return _checked(tuple(os.environ.get(TOKENS_VARIABLE, "").replace(",", " ").split()), TOKENS_VARIABLE)


def _checked(tokens: tuple[str, ...], source: str) -> tuple[str, ...]:
    # What a header can't carry would never match.
    if any(not token.isascii() or not token.isprintable() or " " in token for token in tokens):
        rule = "must hold tokens of printable ASCII characters without spaces, one a line"
        raise ConfigError(_FIELD, rule, source, "make one: python -c 'import secrets; print(secrets.token_urlsafe())'")
    return tokens


def matches(given: str, tokens: Sequence[str]) -> bool:
    """Whether ``given`` is one of the tokens; the time taken tells nothing about them."""
    same = [hmac.compare_digest(given.encode(), token.encode()) for token in tokens]
    return any(same)
