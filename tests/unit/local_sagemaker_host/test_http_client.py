"""The forwarding client: reuse, servers that hang up, answers that stop short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from local.sagemaker_host.http_client import HttpClient, HttpFailure

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kind: Plain\r\n\r\nhi"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def talk(handle: Handler, conversation: Callable[[HttpClient], Awaitable[None]]) -> int:
    """Run `conversation` against a server that answers each connection with `handle`; return how many were opened."""
    opened = 0

    async def scenario() -> None:
        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal opened
            opened += 1
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client is done with this connection
                await handle(reader, writer)
            writer.close()

        server = await asyncio.start_server(count, "127.0.0.1", 0)
        client = HttpClient(*server.sockets[0].getsockname())
        try:
            await conversation(client)
        finally:
            client.close()
            server.close()
            await server.wait_closed()

    asyncio.run(scenario())
    return opened


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await read_request(reader)
        writer.write(OK)
        await writer.drain()


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(OK)
    await writer.drain()


def test_answers_are_whole_and_connections_are_used_again():
    async def conversation(client: HttpClient) -> None:
        for _ in range(5):
            response = await client.request("POST", "/x", {"a": "b"}, b"body", 5)
            assert (response.status, response.body, response.headers["x-kind"]) == (200, b"hi", "Plain")

    assert talk(answer_all, conversation) == 1


def test_a_kept_connection_that_the_server_closed_is_replaced_without_the_caller_noticing():
    async def conversation(client: HttpClient) -> None:
        for _ in range(3):
            assert (await client.request("POST", "/x", {}, b"", 5)).status == 200
            await asyncio.sleep(0.01)

    assert talk(answer_once, conversation) == 3


def test_concurrent_requests_get_connections_of_their_own():
    async def conversation(client: HttpClient) -> None:
        responses = await asyncio.gather(*(client.request("POST", "/x", {}, b"", 5) for _ in range(8)))
        assert [response.body for response in responses] == [b"hi"] * 8

    assert talk(answer_all, conversation) == 8


@pytest.mark.parametrize("answer", [b"", OK[:-1], b"HTTP/1.1 200 OK\r\nCont", b"nonsense\r\n\r\n"])
def test_an_answer_that_stops_short_is_a_failure_never_a_short_body(answer):
    async def cut_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async def conversation(client: HttpClient) -> None:
        with pytest.raises(HttpFailure):
            await client.request("POST", "/x", {}, b"", 5)

    assert talk(cut_short, conversation) == 1


def test_after_a_time_out_the_connection_is_not_used_again():
    #  client:  request 1 ......... gives up | request 2 (must not read the answer to request 1)
    async def late_then_prompt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if b"/slow" in request:
            await asyncio.sleep(0.3)
            writer.write(OK.replace(b"hi", b"no"))
        else:
            writer.write(OK)
        await writer.drain()

    async def conversation(client: HttpClient) -> None:
        with pytest.raises(TimeoutError):
            await client.request("POST", "/slow", {}, b"", 0.05)
        assert (await client.request("POST", "/x", {}, b"", 5)).body == b"hi"

    assert talk(late_then_prompt, conversation) == 2


def test_nobody_listening_is_a_failure():
    async def scenario() -> None:
        server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        server.close()
        await server.wait_closed()
        with pytest.raises(HttpFailure, match="connect"):
            await HttpClient(*address).request("GET", "/", {}, b"", 5)

    asyncio.run(scenario())
