"""The ledger: what became of every prompt that was issued (promise 5). SQLite, written by the driver only.

    issued -> generated -> trained(step) | dropped(cause)      any of them -> abandoned, behind a restored step

Input: events from the producer and the train loop. Output: ledger.sqlite, which audit and resume read.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS groups (
    group_id     TEXT PRIMARY KEY,
    position     INTEGER NOT NULL,   -- place in the seeded order of prompts, over all epochs
    prompt_id    TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    incarnation  INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('issued', 'generated', 'trained', 'dropped', 'abandoned')),
    cause        TEXT,               -- of a drop or an abandonment
    step         INTEGER,            -- that trained it, or that was under way when it was dropped
    worker       TEXT,
    oldest_version INTEGER,
    reward_mean  REAL,
    scored       INTEGER,            -- completions with a reward
    issued_at    REAL NOT NULL,      -- unix seconds
    generated_at REAL,
    closed_at    REAL
);
CREATE INDEX IF NOT EXISTS groups_by_state ON groups (state);
CREATE TABLE IF NOT EXISTS steps (
    step         INTEGER NOT NULL,
    incarnation  INTEGER NOT NULL,
    version      INTEGER NOT NULL,   -- that its push made
    abandoned    INTEGER NOT NULL DEFAULT 0,
    closed_at    REAL NOT NULL,
    PRIMARY KEY (step, incarnation)
);
"""


@dataclass(frozen=True)
class Issue:
    """One prompt at one place of the order: what must be trained on, or dropped with a cause, exactly once."""

    position: int
    prompt_id: str
    epoch: int


class Ledger:
    """One connection to ledger.sqlite; every call is one transaction."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        # WAL needs shared memory between processes and breaks on network file systems; the driver is the only
        # writer and audit reads a closed or copied file, so the rollback journal is safe everywhere.
        self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def issued(self, group_id: str, issue: Issue, incarnation: int) -> None:
        """A prompt is about to be sent to a worker."""
        self._db.execute(
            "INSERT INTO groups (group_id, position, prompt_id, epoch, incarnation, state, issued_at)"
            " VALUES (?, ?, ?, ?, ?, 'issued', ?)",
            (group_id, issue.position, issue.prompt_id, issue.epoch, incarnation, time.time()),
        )

    def generated(self, group_id: str, *, worker: str, oldest_version: int, reward_mean: float, scored: int) -> None:
        """The group is generated, scored and in the buffer."""
        self._db.execute(
            "UPDATE groups SET state = 'generated', worker = ?, oldest_version = ?, reward_mean = ?, scored = ?,"
            " generated_at = ? WHERE group_id = ?",
            (worker, oldest_version, reward_mean, scored, time.time(), group_id),
        )

    def dropped(self, group_id: str, cause: str, step: int) -> None:
        """The group can't be had, while ``step`` was under way; its prompt is not tried again in this epoch."""
        self._db.execute(
            "UPDATE groups SET state = 'dropped', cause = ?, step = ?, closed_at = ? WHERE group_id = ?",
            (cause, step, time.time(), group_id),
        )

    def trained(self, step: int, incarnation: int, version: int, group_ids: Iterable[str]) -> None:
        """The step that trained these groups is done and pushed."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "UPDATE groups SET state = 'trained', step = ?, closed_at = ? WHERE group_id = ?",
            [(step, now, group_id) for group_id in group_ids],
        )
        self._db.execute(
            "INSERT INTO steps (step, incarnation, version, closed_at) VALUES (?, ?, ?, ?)",
            (step, incarnation, version, now),
        )
        self._db.execute("COMMIT")

    def open_issues(self, step: int) -> list[Issue]:
        """What a run that goes on from ``step`` has to issue again, in the order of issue.

        That is what is issued or generated and not trained yet, and what was dropped since: ``roll_back`` takes that
        drop back.
        """
        rows = self._db.execute(
            "SELECT position, prompt_id, epoch FROM groups WHERE state IN ('issued', 'generated')"
            " OR (state = 'dropped' AND step > ?) ORDER BY position",
            (step,),
        )
        return [Issue(*row) for row in rows]

    def next_incarnation(self) -> int:
        """One more than any group of this run has; 0 for a fresh run."""
        return self._number("SELECT coalesce(max(incarnation), -1) + 1 FROM groups")

    def roll_back(self, step: int) -> None:
        """Mark all that happened behind ``step`` as abandoned: the run goes on from that step's checkpoint."""
        now = time.time()
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "UPDATE groups SET state = 'abandoned', cause = 'rolled_back', closed_at = ?"
            " WHERE state IN ('issued', 'generated') OR (state IN ('trained', 'dropped') AND step > ?)",
            (now, step),
        )
        self._db.execute("UPDATE steps SET abandoned = 1 WHERE step > ?", (step,))
        self._db.execute("COMMIT")

    def counts(self) -> Mapping[str, int]:
        """Number of groups by state."""
        return dict(self._db.execute("SELECT state, count(*) FROM groups GROUP BY state").fetchall())

    def drops_by_cause(self) -> Mapping[str, int]:
        """Number of dropped groups by cause, in the surviving history."""
        return dict(
            self._db.execute("SELECT cause, count(*) FROM groups WHERE state = 'dropped' GROUP BY cause").fetchall()
        )

    def audit(self) -> dict[str, Any]:
        """What became of every issued prompt: ``trained_twice`` and ``lost`` are 0, or something is broken.

        ``in_flight`` are issued or buffered and not yet trained: of a run that goes on, or that waits to be resumed.
        """
        counts = self.counts()
        return {
            "prompts_issued": self._number("SELECT count(DISTINCT position) FROM groups"),
            "trained": counts.get("trained", 0),
            "in_flight": counts.get("issued", 0) + counts.get("generated", 0),
            "abandoned": counts.get("abandoned", 0),
            "trained_twice": self._number(
                "SELECT count(*) FROM (SELECT position FROM groups WHERE state = 'trained'"
                " GROUP BY position HAVING count(*) > 1)"
            ),
            # Up to the last trained place of the order: issued once and in no surviving state, or never issued at all.
            "lost": self._number(
                "WITH last AS (SELECT coalesce(max(position), -1) AS place FROM groups WHERE state = 'trained')"
                " SELECT (SELECT place FROM last) + 1 - count(DISTINCT position) FROM groups"
                " WHERE state != 'abandoned' AND position <= (SELECT place FROM last)"
            ),
            "dropped_by_cause": dict(self.drops_by_cause()),
        }

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])
