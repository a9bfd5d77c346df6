"""Registry: the scorers that there are.

Role: finds every module beside this one, so that adding one file adds one scorer.
Input: the modules' ``SCORER``. Output: name -> Scorer, sorted by name; the defaults of a task.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rewards.scorer import Scorer
from schemas.prompt import Task

_THIS = Path(__file__).stem


@cache
def scorers() -> Mapping[str, Scorer[Any]]:
    """Every scorer by name.

    Raises:
        TypeError: a module beside this one has no SCORER, or one that is not called like its file.
    """
    found: dict[str, Scorer[Any]] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])):
        if name == _THIS:
            continue
        scorer = getattr(importlib.import_module(f"rewards.scorers.{name}"), "SCORER", None)
        if not isinstance(scorer, Scorer) or scorer.name != name:
            raise TypeError(f"rewards/scorers/{name}.py must make SCORER, a Scorer named {name!r}")
        found[name] = scorer
    return MappingProxyType(found)


def default_scorers(task: Task) -> tuple[str, ...]:
    """What the service scores a task with when the request names no scorers: everything that needs no weights."""
    return tuple(name for name, scorer in scorers().items() if scorer.tier == "embedded" and task in scorer.tasks)
