"""A pooled HTTP/1.1 client for one local server: the few lines that forwarding an invocation needs, and no more.

A general client costs about as much time per call as a one-row prediction; this one writes a head and reads a
`Content-Length` body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_IDLE: Final = 32  # connections kept for reuse
MAX_HEAD_BYTES: Final = 64 * 1024

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpFailure(Exception):
    """No whole answer came: refused, reset, cut short or not HTTP."""


class HttpClient:
    """Requests to one address over kept-alive connections. One event loop only."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> HttpResponse:
        """Send one request; on a kept connection that turns out closed, send it once more on a new one.

        Only requests that may safely be repeated belong here (a prediction changes nothing).

        Raises:
            HttpFailure: no whole answer came.
            TimeoutError: none came within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            while self._idle:
                try:
                    return await self._exchange(self._idle.pop(), method, path, headers, body)
                except HttpFailure:
                    continue  # the server gave up this connection; the next one may be younger, else a new one
            try:
                opened = await asyncio.open_connection(self._host, self._port, limit=MAX_HEAD_BYTES)
            except OSError as error:
                raise HttpFailure(f"cannot connect: {error}") from error
            return await self._exchange(opened, method, path, headers, body)

    async def _exchange(
        self, connection: _Connection, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> HttpResponse:
        reader, writer = connection
        head = [f"{method} {path} HTTP/1.1", f"host: {self._host}:{self._port}", f"content-length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        reusable = False
        try:
            writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
            await writer.drain()
            response = await _read_response(reader)
            reusable = response.headers.get("connection", "").lower() != "close"
            return response
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise HttpFailure(f"no whole answer: {error!r}") from error
        finally:  # also when cancelled by the timeout: a half-read connection must not be used again
            if reusable and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
            else:
                writer.close()

    def close(self) -> None:
        """Give up all idle connections."""
        while self._idle:
            self._idle.pop()[1].close()


async def _read_response(reader: asyncio.StreamReader) -> HttpResponse:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    _, status, *_ = head[0].split(" ", 2)
    headers: dict[str, str] = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return HttpResponse(int(status), headers, body)
