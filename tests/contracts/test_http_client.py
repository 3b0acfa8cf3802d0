"""Our HTTP client before servers that answer oddly: what isn't the reply to a request reaches nobody, and nothing waits or grows
without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from servery.host.client import Client, Cut, Reply, TooLong, Unreached

MOST = 1 << 20
LATE_S = 20.0  # for what would otherwise never come
BODY = b'{"model":"m"}'

Act = Callable[["Odd", asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status, len(body), b"".join([line + b"\r\n" for line in lines]), body,
    )  # fmt: skip


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts]) + end


def says(content: bytes, *, then_closes: bool = False) -> Act:
    async def act(_: Odd, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        if then_closes:
            writer.close()

    return act


def floods(begin: bytes, part: bytes) -> Act:
    """Says `part` over and over, for as long as somebody listens, or 64 MiB."""

    async def act(odd: Odd, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        with contextlib.suppress(ConnectionError):
            for _ in range((64 << 20) // len(part)):
                writer.write(part)
                odd.said += len(part)
                await writer.drain()
            writer.close()

    return act


async def silent(_: Odd, writer: asyncio.StreamWriter) -> None:
    del writer


SECOND = says(reply(b"second"))


class Odd:
    """A server that does `acts` in turn, one a request, whatever connection it comes on. `open` connections are those of
    which it has heard no end.
    """

    def __init__(self, *acts: Act, at_once: Act | None = None) -> None:
        self.connections = self.open = self.said = 0
        self.bodies: list[bytes] = []
        self._acts = list(acts)
        self._at_once = at_once  # when a connection is made
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            if self._at_once is not None:
                await self._at_once(self, writer)
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                act = self._acts.pop(0)
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                if act is not early:
                    self.bodies.append(await reader.readexactly(size))
                await act(self, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()


async def early(_: Odd, writer: asyncio.StreamWriter) -> None:
    """Answers before it has read the body, and leaves that where it is."""
    writer.write(reply(b"too much", status=b"413 Too Much"))
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def asking(odd: Odd) -> AsyncGenerator[tuple[Client, bytes]]:
    """A client of a server that does `acts`, and the head of a request to it."""
    server = await asyncio.start_server(odd.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}/v1", MOST, asyncio.get_running_loop())
    try:
        async with asyncio.timeout(LATE_S):
            yield client, client.head("chat")
    finally:
        client.close()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def ask(client: Client, head: bytes, stream: bool, body: bytes = BODY) -> tuple[int, bytes]:
    """Status and body of the reply. As of Client.ask."""
    got = await client.ask(head, body, stream)
    try:
        return got.status, await heard(got) if stream else got.body
    finally:
        got.end()


async def ask_for_all(client: Client, head: bytes, stream: bool) -> bytes:
    """The reply's whole body, though it was to `stream`: as errors are read."""
    got = await client.ask(head, BODY, stream)
    try:
        return await got.rest()
    finally:
        got.end()


async def heard(got: Reply) -> bytes:
    parts: list[bytes] = []
    while part := await got.part():
        parts.append(part)
    return b"".join(parts)


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.001)


def play(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene)


# What the server says, what the client has heard then, and whether the connection may serve another request.
REPLIES: dict[str, tuple[bytes, tuple[int, bytes], bool]] = {
    "plain": (reply(b"first"), (200, b"first"), True),
    "empty lines behind it": (reply(b"first") + b"\r\n\r\n", (200, b"first"), True),
    "chunks": (chunked(b"fi", b"rst"), (200, b"first"), True),
    "trailers": (chunked(b"first", end=b"0\r\nx-sum: 5\r\nx-more: 6\r\n\r\n"), (200, b"first"), True),
    "interim replies": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + reply(b"first"), (200, b"first"), True,
    ),
    "an upgrade on offer": (reply(b"first", b"connection: upgrade", b"upgrade: h2c"), (200, b"first"), True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b""), True),
    "no content, with some": (reply(b"first", status=b"204 No Content"), (204, b""), False),
    "not modified, with some": (reply(b"first", status=b"304 Not Modified"), (304, b""), False),
    "more than its length": (reply(b"first") + b"GARBAGE", (200, b"first"), False),
    "a reply that nobody asked for": (reply(b"first") + reply(b"other"), (200, b"first"), False),
    "more behind the last chunk": (chunked(b"first") + b"x", (200, b"first"), False),
    "its last": (reply(b"first", b"connection: close"), (200, b"first"), False),
    "more behind its last": (reply(b"first", b"connection: close") + b"xx", (200, b"first"), False),
    "HTTP/1.0": (reply(b"first").replace(b"1.1", b"1.0"), (200, b"first"), False),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", REPLIES)
def test_what_is_no_part_of_a_reply_is_heard_by_nobody(what: str, stream: bool) -> None:
    content, told, kept = REPLIES[what]

    async def scene() -> None:
        odd = Odd(says(content), SECOND)
        async with asking(odd) as (client, head):
            assert await ask(client, head, stream) == told
            assert await ask(client, head, stream) == (200, b"second")
            assert odd.connections == (1 if kept else 2)

    play(scene())


ENDED = (reply(b"first").replace(b"content-length: 5\r\n", b""), b"first")
BROKEN: dict[str, bytes] = {
    "two lengths": reply(b"first", b"content-length: 9"),
    "a list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nfirst",
    "a length and chunks": chunked(b"first").replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n", 1),
    "chunks and a length": chunked(b"first").replace(b"transfer", b"content-length: 5\r\ntransfer", 1),
    "a length as a trailer": chunked(b"first", end=b"0\r\ncontent-length: 5\r\n\r\n"),
    "chunks within something": chunked(b"first").replace(b"chunked", b"chunked, identity"),
    "a length below nothing": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nfirst",
    "a length with a sign": b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nfirst",
    "a length beyond 64 bits": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nfirst",
    "a length that isn't reached": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst",
    "a chunk below nothing": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\nfirst\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nfirst\r\n",
    "a chunk longer than it says": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfirst\r\n0\r\n\r\n",
    "no last chunk": chunked(b"first", end=b""),
    "lines that end in LF": b"HTTP/1.1 200 OK\ncontent-length: 5\n\nfirst",
    "a folded line": reply(b"first", b"a: b", b" content-length: 9"),
    "a blank before a colon": b"HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nfirst",
    "a NUL in a line": reply(b"first", b"a: \0"),
    "another protocol": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + reply(b"first"),
    "another protocol, unsaid": b"HTTP/1.1 101 Switching\r\n\r\n" + reply(b"first"),
    "no status": reply(b"first", status=b"000 Nothing"),
    "a page without a head": b"<html>first</html>",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x50",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", BROKEN)
def test_what_can_be_read_in_two_ways_is_read_in_none(what: str, stream: bool) -> None:
    async def scene() -> None:
        odd = Odd(says(BROKEN[what], then_closes=True), SECOND)
        async with asking(odd) as (client, head):
            with pytest.raises(Cut):
                await ask(client, head, stream)
            assert await ask(client, head, stream) == (200, b"second")
            assert odd.connections == 2

    play(scene())


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_may_end_with_its_connection(stream: bool) -> None:
    async def scene() -> None:
        odd = Odd(says(ENDED[0], then_closes=True), SECOND)
        async with asking(odd) as (client, head):
            assert await ask(client, head, stream) == (200, ENDED[1])
            assert await ask(client, head, stream) == (200, b"second")

    play(scene())


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "header lines": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 500),
    "one header line": (b"HTTP/1.1 200 OK\r\na: ", b"b" * 3000),
    "one status line": (b"HTTP/1.1 200 ", b"b" * 3000),
    "interim replies": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "trailers": (chunked(b"first", end=b"0\r\n"), b"a: b\r\n" * 500),
    "one trailer": (chunked(b"first", end=b"0\r\na: "), b"b" * 3000),
    "a chunk's extension": (chunked(b"first", end=b"5;a="), b"b" * 3000),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", FLOODS)
def test_what_comes_without_end_beside_a_body_is_cut_off(what: str, stream: bool) -> None:
    async def scene() -> None:
        odd = Odd(floods(*FLOODS[what]), SECOND)
        async with asking(odd) as (client, head):
            with pytest.raises(Cut):
                await ask(client, head, stream)
            assert await ask(client, head, stream) == (200, b"second")
        assert odd.said < 16 << 20  # what the kernel holds, and no more

    play(scene())


@pytest.mark.parametrize(
    ("content", "stream"),
    [
        (reply(b"x" * (MOST + 1)), False),
        (chunked(*[b"x" * 1000] * (MOST // 1000 + 1)), False),
        (chunked(*[b"xx"] * (MOST // 20)), False),  # a part takes more than what it holds
        (reply(b"x" * 100_000, status=b"500 Bug"), False),
        (reply(b"x" * 10_000_000, status=b"500 Bug"), True),
    ],
)
def test_a_body_is_no_longer_than_it_may_be(content: bytes, stream: bool) -> None:
    async def scene() -> None:
        odd = Odd(says(content), SECOND)
        async with asking(odd) as (client, head):
            with pytest.raises(TooLong):
                await ask_for_all(client, head, stream)
            assert await ask(client, head, stream) == (200, b"second")

    play(scene())


def test_a_stream_that_is_read_slowly_waits_at_the_server() -> None:
    async def scene() -> None:
        odd = Odd(floods(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536))
        async with asking(odd) as (client, head):
            got = await client.ask(head, BODY, True)
            before = -1
            while odd.said != before:
                before = odd.said
                await asyncio.sleep(0.2)
            assert before < 16 << 20
            assert len(got.body) < 1 << 20
            assert len(await heard(got)) == 64 << 20
            got.end()

    play(scene())


def test_an_early_reply_leaves_no_half_of_a_request_behind() -> None:
    async def scene() -> None:
        odd = Odd(early, SECOND)
        async with asking(odd) as (client, head):
            assert await ask(client, head, False, b"x" * (16 << 20)) == (413, b"too much")
            assert await ask(client, head, False) == (200, b"second")
            assert odd.bodies == [BODY]
            assert odd.connections == 2

    play(scene())


def test_what_is_said_while_nobody_asks_ends_the_connection() -> None:
    async def scene() -> None:
        async def later(_: Odd, writer: asyncio.StreamWriter) -> None:
            writer.write(reply(b"first"))
            await heard_first.wait()
            writer.write(reply(b"other"))

        heard_first = asyncio.Event()
        odd = Odd(later, SECOND)
        async with asking(odd) as (client, head):
            assert await ask(client, head, False) == (200, b"first")
            heard_first.set()
            await until(lambda: odd.open == 0)
            assert await ask(client, head, False) == (200, b"second")

    play(scene())


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_whose_other_half_is_closed_is_not_asked_again(stream: bool) -> None:
    async def half(_: Odd, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"first"))
        writer.write_eof()

    async def scene() -> None:
        odd = Odd(half, SECOND)
        async with asking(odd) as (client, head):
            assert await ask(client, head, stream) == (200, b"first")
            await until(lambda: odd.open == 0)
            assert await ask(client, head, stream) == (200, b"second")
            assert odd.connections == 2

    play(scene())


def test_who_closes_every_connection_at_once_is_not_waited_for() -> None:
    async def closes(_: Odd, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        raise ConnectionError

    async def scene() -> None:
        async with asking(Odd(at_once=closes)) as (client, head):
            for _ in range(100):
                with pytest.raises((Unreached, Cut)):
                    await ask(client, head, False)

    play(scene())


def test_whoever_stops_waiting_leaves_no_connection_behind() -> None:
    async def scene() -> None:
        odd = Odd(*[silent] * 500)
        async with asking(odd) as (client, head):
            for turns in range(40):
                asked = asyncio.ensure_future(client.ask(head, BODY, False))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asked.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asked
            await until(lambda: odd.open == 0)
        assert odd.connections > 10

    play(scene())


def test_one_who_answers_nothing_is_unreached_or_cut() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            client = Client(f"http://127.0.0.1:{closed.getsockname()[1]}", MOST, loop)
            with pytest.raises(Unreached):
                await ask(client, client.head("chat"), False)
        async with asking(Odd(at_once=SECOND)) as (plain, _):
            secure = Client(f"https://127.0.0.1:{plain.origin.port}", MOST, loop)
            with pytest.raises(Unreached):
                await ask(secure, secure.head("chat"), False)

    play(scene())


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "ä", "\0", "a\tb"])
def test_no_line_is_smuggled_into_a_head(value: str) -> None:
    async def scene() -> None:
        client = Client("http://127.0.0.1:1/v1", MOST, asyncio.get_running_loop())
        with pytest.raises(ValueError, match="printable ASCII") as told:
            client.head("chat", ("authorization", value))
        assert value not in str(told.value)

    play(scene())
