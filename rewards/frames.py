"""Frames: pickled messages between the service and its own worker processes, over a private socket pair.

Role: the only encoding that both sides share. Never used on a network: pickles are for our own children only.
Input: a Python object. Output: its length (8 bytes, big-endian) and its pickle; and back, blocking or awaited.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct(">Q")


def pack(message: object) -> bytes:
    """A frame that holds the message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def receive(connection: socket.socket) -> Any:
    """The next message. Raises EOFError when the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return pickle.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytearray:
    buffer = bytearray(count)
    view, filled = memoryview(buffer), 0
    while filled < count:
        received = connection.recv_into(view[filled:])
        if received == 0:
            raise EOFError
        filled += received
    return buffer


async def read(reader: asyncio.StreamReader) -> Any:
    """The next message. Raises EOFError when the other side is gone."""
    # IncompleteReadError is an EOFError.
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))
