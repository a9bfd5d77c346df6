"""worker: the process in which scorers run.

Role: ``python -m rewards.worker FD``, started by ``worker_process.py``; the service's event loop never scores.
Input: a Start, then batches of Slices, over the inherited socket FD. Output: a Started, then a BatchReply a batch, with
each item's scores and errors already as JSON. Ends when the service closes the socket or dies.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from rewards import frames
from rewards.memory import settle_memory
from rewards.references import REFERENCES
from rewards.resources import NotReadyError, Resources
from rewards.scorer import Scorer
from rewards.scorers.registry import available
from rewards.scoring import Outcome, Slice, score_slices
from rewards.wire import ScorerState
from rewards.worker_messages import BatchReply, ItemJson, Start, Started
from schemas.base import Settings
from schemas.group import Score, ScoreError

_PR_SET_PDEATHSIG = 1

_log = logging.getLogger(__name__)


def entries(results: Mapping[str, Score | ScoreError]) -> bytes:
    """The inside of a JSON object: scorer -> score, or scorer -> error."""
    return b",".join(to_json(name) + b":" + result.model_dump_json().encode() for name, result in results.items())


def item_json(outcome: Outcome) -> ItemJson:
    """An outcome as it goes onto the wire."""
    return ItemJson(entries(outcome.scores), entries(outcome.errors))


def load_scorer(scorer: Scorer[Settings], resources: Resources) -> ScorerState:
    """Loads one scorer; what goes wrong is a state with a remedy, not a crash."""
    try:
        scorer.load(resources)
    except NotReadyError as error:
        return ScorerState(state="not_ready", remedy=error.remedy)
    except Exception as error:  # noqa: BLE001 - the border: a scorer that can't be loaded is a state, not a crash
        _log.warning("scorer %s could not be loaded: %s", scorer.name, type(error).__name__)
        return ScorerState(state="failed", remedy=scorer.remedy)
    return ScorerState(state="ready")


def _batch_reply(scorers: Mapping[str, Scorer[Any]], slices: Sequence[Slice]) -> BatchReply:
    hits, misses = REFERENCES.hits, REFERENCES.misses
    outcomes, costs = score_slices(scorers, slices)
    failures = Counter(
        (name, error.code) for part in outcomes for outcome in part for name, error in outcome.errors.items()
    )
    return BatchReply(
        results=[[item_json(outcome) for outcome in part] for part in outcomes],
        costs=costs,
        failures=dict(failures),
        cache_hits=REFERENCES.hits - hits,
        cache_misses=REFERENCES.misses - misses,
    )


def run(connection: socket.socket) -> None:
    """Loads the scorers, then scores batch after batch until the other side is gone."""
    start: Start = frames.receive(connection)
    known = available(start.plugins)
    scorers = {name: known[name] for name in start.names}
    REFERENCES.limit(start.reference_cache_bytes)
    states = {name: load_scorer(scorer, start.resources) for name, scorer in scorers.items()}
    settle_memory()
    connection.sendall(frames.pack(Started(states)))
    while True:
        connection.sendall(frames.pack(_batch_reply(scorers, frames.receive(connection))))


def main(descriptor: int) -> None:
    """The process. The service decides when it ends: by closing the socket, or by SIGKILL."""
    # A service that is killed takes a worker with it that is busy or hung, and would not see the socket close. (The
    # kernel's parent is the thread that made the process: the service's event loop, which lives as long.)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with socket.socket(fileno=descriptor) as connection:
        try:
            run(connection)
        except (EOFError, ConnectionError):
            return  # the service is gone, or done with this worker


if __name__ == "__main__":
    main(int(sys.argv[1]))
