"""Wyoming events off a TCP connection, with a cap on everything that comes in.

An event is a line of JSON, then `data_length` bytes of more JSON, then `payload_length` bytes of sound. The protocol's
own package writes our events; it has no caps and ends a connection without a word when it cannot read one, so reading
is done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from wyoming.event import Event

from ...streaming.clock import Clock, within

MAX_LINE = 2**16
"""Bytes of an event's line: the limit to give the stream reader."""

MAX_DATA = 2**18
"""Bytes of an event's further JSON."""

LINGER_S = 1.0
"""Seconds that a peer gets to read our last event."""


class WyomingError(Exception):
    """An event that cannot be done.

    code: machine-readable; str: one line. fatal: where the next event begins is not known any more.
    """

    def __init__(self, code: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.code, self.fatal = code, fatal


async def read_event(reader: asyncio.StreamReader, max_payload: int) -> Event | None:
    """The next event; None when the peer has ended the connection.

    Raises WyomingError for what is not an event or is too large.
    """
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise WyomingError("too-large", f"the line of an event has over {MAX_LINE} bytes", fatal=True) from None
    header = _object(line, "an event's line", fatal=True)
    data_length = _length(header, "data_length", MAX_DATA)
    payload_length = _length(header, "payload_length", max_payload)
    try:
        more = await reader.readexactly(data_length)
        payload = await reader.readexactly(payload_length)
    except asyncio.IncompleteReadError:
        return None
    kind, data = header.get("type"), header.get("data")
    if not isinstance(kind, str):
        raise WyomingError("invalid-event", "the event has no type")
    if not isinstance(data, dict | None):
        raise WyomingError("invalid-event", f"the data of {kind[:80]!r} is not an object")
    if more:
        data = {**(data or {}), **_object(more, f"the data of {kind[:80]!r}")}
    return Event(kind, data or {}, payload or None)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Clock) -> None:
    """End a connection so that the peer can still read what it was sent last.

    A socket that is closed with unread bytes in it resets the connection, and the last event is lost on its way.
    """
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        await within(clock, LINGER_S, _discard(reader))
    writer.close()


async def _discard(reader: asyncio.StreamReader) -> None:
    while await reader.read(MAX_LINE):
        pass


def _object(text: bytes, what: str, *, fatal: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise WyomingError("invalid-json", f"{what} is not valid JSON", fatal=fatal) from None
    if not isinstance(value, dict):
        raise WyomingError("invalid-json", f"{what} is not a JSON object", fatal=fatal)
    return value


def _length(header: dict[str, Any], name: str, limit: int) -> int:
    length = header.get(name)
    if length is None:
        return 0
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise WyomingError("invalid-event", f"{name} is not a number of bytes", fatal=True)
    if length > limit:
        raise WyomingError("too-large", f"{name} is {length}: at most {limit} bytes are taken", fatal=True)
    return length
