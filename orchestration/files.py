"""Small files that are either whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any


def open_private(path: Path, mode: str) -> IO[str]:
    """A UTF-8 text file that only its owner can read, opened for writing (``w``) or appending (``a``)."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if mode == "a" else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), mode, encoding="utf-8")


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file: temporary file, fsync, rename. Mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_private(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of an append-only file, without a torn last one (a full disk, a power cut); [] if it is not there."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # each record ends in a line break
    return [json.loads(line) for line in whole]


def cut_torn_line(path: Path) -> None:
    """Remove a torn last line, so that the next record starts on a line of its own."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)
