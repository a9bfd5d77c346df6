"""Registry: the scorers that there are.

Role: finds every module beside this one, so that adding one file adds one scorer.
Input: the modules' ``SCORER``. Output: name -> Scorer, sorted by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from rewards.scorer import Scorer
from schemas.errors import ConfigError

_THIS = Path(__file__).stem
_SEE = 'see docs/rewards.md, "A scorer of your own"'


@cache
def scorers() -> Mapping[str, Scorer[Any]]:
    """Every scorer of this package by name.

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


@cache
def available(plugins: tuple[str, ...]) -> Mapping[str, Scorer[Any]]:
    """The package's scorers and those of other people's modules, by name.

    Args:
        plugins: importable modules (``lab.scorers.tube_position``) or files (``scorers/tube_position.py``), each with
            a SCORER.

    Raises:
        ConfigError: a plugin can't be imported, has no SCORER, or its name is taken.
    """
    found = dict(scorers())
    for plugin in plugins:
        scorer = getattr(_plugin_module(plugin), "SCORER", None)
        if not isinstance(scorer, Scorer):
            raise ConfigError("reward.plugins", "must make SCORER, a rewards.scorer.Scorer", plugin, _SEE)
        if scorer.name in found:
            raise ConfigError("reward.plugins", "must not take another scorer's name", scorer.name, "rename it")
        found[scorer.name] = scorer
    return MappingProxyType(found)


def _plugin_module(plugin: str) -> ModuleType:
    try:
        if not plugin.endswith(".py"):
            return importlib.import_module(plugin)
        path = Path(plugin)
        # The same name in every process: batches name the class of their parameters by it.
        name = f"overread_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except Exception as error:  # the border: anything can go wrong while somebody's module runs
        raise ConfigError("reward.plugins", f"must be importable ({type(error).__name__})", plugin, _SEE) from error
    return module
