"""WorkerProcess: one child process that scores batches.

Role: starts ``rewards.worker``, speaks with it over a private socket pair, and notices its death: the socket closes.
Input: a Start, then lists of Slices. Output: its scorers' states, then BatchReplies, or a WorkerDiedError.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import cast

from rewards import frames
from rewards.scoring import Slice
from rewards.wire import ScorerState
from rewards.worker_messages import BatchReply, Start, Started

_GOODBYE_S = 5.0  # what a worker gets to end by itself once its socket is closed


class WorkerDiedError(Exception):
    """The process ended, by a crash, a kill or its own exit."""


def _spawn(threads: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A worker and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "rewards.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C in a terminal goes to a process group: a drain still needs its workers.
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        except OSError:
            ours.close()
            raise
    return ours, process


class WorkerProcess:
    """A running worker. Made by ``start``; for one batch at a time."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.states: dict[str, ScorerState] = {}

    @classmethod
    async def start(cls, message: Start, threads: int) -> WorkerProcess:
        """A worker whose scorers are loaded.

        Args:
            threads: of numeric libraries in the worker.

        Raises:
            WorkerDiedError: it could not be made, or ended while loading.
        """
        try:
            ours, process = _spawn(threads)
        except OSError as error:  # no process or descriptor to be had
            raise WorkerDiedError(f"a scorer process could not be made: {error.strerror}") from error
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        worker = cls(process, reader, writer)
        try:
            worker.states = cast("Started", await worker._exchange(message)).states
        except BaseException:
            worker.kill()
            raise
        return worker

    def gone(self) -> bool:
        """Whether the process has closed its side: it ended, or is about to."""
        return self._reader.at_eof()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def score(self, slices: Sequence[Slice]) -> BatchReply:
        """A batch's results. Raises WorkerDiedError when the process ends before they are there."""
        return cast("BatchReply", await self._exchange(list(slices)))

    async def _exchange(self, message: object) -> object:
        try:
            self._writer.write(frames.pack(message))
            await self._writer.drain()
            return await frames.read(self._reader)
        except (EOFError, OSError) as error:
            raise WorkerDiedError(f"the scorer process {self.pid} ended") from error

    def kill(self) -> None:
        """Ends the process at once."""
        self._writer.close()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def close(self) -> None:
        """Lets the process end by itself, or ends it."""
        self._writer.close()
        try:
            await asyncio.to_thread(self._process.wait, _GOODBYE_S)
        except subprocess.TimeoutExpired:
            self.kill()
