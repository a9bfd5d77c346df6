"""Atomic output: a file or folder appears whole, or not at all.

Role: nothing half-written. Input: the final path. Output: a temporary path beside it, renamed at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import DataError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``out`` when the block ends without an exception.

    Raises:
        DataError: ``out`` is there already and not an empty folder, or can't be made.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(str(out), "the output must not exist yet", "it does", "remove it or give another path")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise DataError(str(out), "must be a place to write to", error.strerror, "give another path") from error
    try:
        yield scratch
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Yield a path to write to that becomes ``out``, flushed to the disk, when the block ends without an exception.

    Raises:
        DataError: the folder can't be written to.
    """
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise DataError(str(out), "must be a place to write to", error.strerror, "give another path") from error
    scratch = Path(name)
    try:
        yield scratch
        os.fsync(handle)
        scratch.replace(out)
    finally:
        os.close(handle)
        scratch.unlink(missing_ok=True)
