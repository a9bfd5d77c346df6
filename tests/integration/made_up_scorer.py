"""A scorer whose answers say what it does: a plugin of the services that tests start.

``wait PATH``: scores once the file is there. ``die PATH``: kills its process unless the file is there, which it makes
first. ``die``: kills its process every time. Anything else: 1 / length, so that a blank answer fails.
MADE_UP_LOAD: ``fail``, ``die``, or a file that loading waits for.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from rewards.resources import Resources
from rewards.scorer import NoParams, ScoreItem, Scorer
from schemas.group import Score, ScoreError

PLUGIN = __file__
LOAD_VARIABLE = "MADE_UP_LOAD"
SECRET = "left pneumothorax of Mrs Example"


def _until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def _load(_: Resources) -> None:
    told = os.environ.get(LOAD_VARIABLE)
    if told == "fail":
        raise ImportError(SECRET)
    if told == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if told:
        _until(told)


def _score(item: ScoreItem) -> Score:
    verb, _, path = item.answer.partition(" ")
    if verb == "wait":
        _until(path)
    if verb == "die" and not (path and Path(path).exists()):
        if path:
            Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Score(value=1.0 / len(item.answer))


def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
    return [_score(item) for item in items]


SCORER = Scorer(
    name="made_up",
    version="7",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=(),
    params=NoParams,
    score=score,
    load=_load,
    summary="one over the length of the answer",
)
