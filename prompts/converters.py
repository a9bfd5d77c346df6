"""Converters: from a data set in its own layout to a folder of prompts.

Role: the table behind ``overread data convert NAME SRC OUT``. Input: a name.
Output: a function (source, output folder) -> number of prompts written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prompts.jsonl import convert_jsonl

CONVERTERS: dict[str, Callable[[Path, Path], int]] = {"jsonl": convert_jsonl}
