"""IN6, IN7: senders that are slow, huge or deep cost the others nothing."""

import asyncio
import contextlib
import gzip
import json
import os
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.api.command_line import create_live_seller
from tests.api.test_readme import serving
from tests.processes import SECONDS

pytestmark = pytest.mark.slow
SOCKETS = 300
MEGABYTE = 1_000_000
ROOM_BYTES = 50 * MEGABYTE
EVENT = {"id": "x", "type": "call", "subject": "acme", "data": {"tokens": 1}}


def bomb(size: int) -> bytes:
    """Compressed zeros, made without holding them."""
    packer = zlib.compressobj(wbits=31)
    block = bytes(MEGABYTE)
    parts = [packer.compress(block) for _ in range(size // MEGABYTE)]
    return b"".join([*parts, packer.flush()])


class Server:
    """The address and key of a server, spoken to in raw bytes."""

    def __init__(self, address: str, key: str, pid: int) -> None:
        place = urlsplit(address)
        self.host, self.port, self.key, self.pid = place.hostname, place.port, key, pid

    def head(self, *, length: int | None, headers: str = "") -> bytes:
        size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        lines = (
            "POST /v1/events HTTP/1.1",
            f"host: {self.host}",
            f"authorization: Bearer {self.key}",
            size,
        )
        return ("\r\n".join(lines) + f"\r\n{headers}\r\n").encode()

    @contextlib.asynccontextmanager
    async def connected(self):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def post(self, body: bytes, *, headers: str = "", chunked: bool = False):
        """The status, body and headers of the answer to a request on a connection of its own.

        Whoever stands still in the middle of it for some seconds is cut off, and sends it again.
        """
        for _ in range(20):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                answered = await self.post_once(body, headers=headers, chunked=chunked)
                if answered[0] != 408:
                    return answered
            await asyncio.sleep(0.1)
        raise AssertionError("there is no answer")

    async def post_once(self, body: bytes, *, headers: str, chunked: bool):
        async with self.connected() as (reader, writer):
            writer.write(self.head(length=None if chunked else len(body), headers=headers))
            # The answer may come before all is sent, and end the connection.
            with contextlib.suppress(ConnectionError):
                for start in range(0, len(body), 65_536):
                    part = body[start : start + 65_536]
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                    await writer.drain()
                if chunked:
                    writer.write(b"0\r\n\r\n")
                    await writer.drain()
            return await answer(reader)

    def resident_bytes(self) -> int:
        """The most memory the process ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (one for one in status.splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    named = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(named["content-length"]))
    return int(head[0].split()[1]), json.loads(body), named


@pytest.fixture
async def server(database_url, tmp_path) -> AsyncIterator[Server]:
    if not os.path.exists("/proc/self/status"):  # noqa: ASYNC240, PTH110
        pytest.skip("NOT TESTED: this system does not tell the memory of a process")
    key = await asyncio.to_thread(create_live_seller, database_url=database_url, home=tmp_path)
    with serving(database_url=database_url, home=tmp_path) as (address, process):
        yield Server(address, key, process.pid)


@contextlib.asynccontextmanager
async def honest_sender(server: Server):
    """Somebody who sends batches all the while; every answer must be 200."""
    seconds: list[float] = []
    ended = asyncio.Event()

    async def send() -> None:
        while not ended.is_set():
            events = [EVENT | {"id": os.urandom(8).hex()} for _ in range(100)]
            before = time.monotonic()
            status, body, _ = await server.post(json.dumps(events).encode())
            seconds.append(time.monotonic() - before)
            told = (body["accepted"] + body["duplicates"], body["rejected"])
            assert (status, told) == (200, (100, []))

    async with asyncio.TaskGroup() as senders:
        for _ in range(2):
            senders.create_task(send())
        try:
            yield seconds
        finally:
            ended.set()
    seconds.sort()
    print(f"\n{len(seconds)} batches, p50 {seconds[len(seconds) // 2] * 1000:.0f} ms,"
          f" p99 {seconds[int(len(seconds) * 0.99)] * 1000:.0f} ms")  # fmt: skip


async def test_slow_senders_are_ended_and_leave_the_others_alone(server):
    async def slow(number: int) -> str:
        async with server.connected() as (reader, writer):
            if number % 3 == 0:
                writer.write(server.head(length=100)[:40])
                await reader.read()
                return "closed"
            if number % 3 == 1:
                writer.write(server.head(length=100) + b"[")
            else:
                writer.write(server.head(length=None) + b"1\r\n[\r\n")
            status, body, _ = await answer(reader)
            assert (status, body["code"]) == (408, "body_too_slow")
            assert await reader.read() == b""
            return "told"

    async with asyncio.timeout(SECONDS), honest_sender(server) as seconds:
        # All of them sit there before anything is counted.
        waiting = [asyncio.create_task(slow(number)) for number in range(SOCKETS)]
        ended = await asyncio.gather(*waiting)
        assert len(seconds) > 2
    assert (ended.count("closed"), ended.count("told")) == (SOCKETS // 3, SOCKETS * 2 // 3)


async def test_huge_and_deep_bodies_are_refused_in_flat_memory(server):
    huge = b"[" + b" " * (11 * MEGABYTE)
    packed = "content-encoding: gzip\r\n"
    hostile = [
        (huge, "", False, (413, "body_too_large")),
        (huge, "", True, (413, "body_too_large")),
        (b"[" * 100_000, "", False, (400, "nested_too_deep")),
        (b'{"a":' * 100_000, "", False, (400, "nested_too_deep")),
        (bomb(500 * MEGABYTE), packed, False, (413, "body_too_large")),
        (bomb(500 * MEGABYTE), packed, True, (413, "body_too_large")),
        (gzip.compress(b"[" + b"{}," * 3_300_000, 1), packed, False, (413, "too_many_values")),
        (b"[" + b"7," * 4_900_000 + b"7]", "", False, (413, "too_many_values")),
    ]
    async with honest_sender(server) as seconds:
        while len(seconds) < 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        before = server.resident_bytes()
        for body, headers, chunked, expected in hostile * 2:
            status, problem, _ = await server.post(body, headers=headers, chunked=chunked)
            assert (status, problem["code"]) == expected
    grown = server.resident_bytes() - before
    print(f"memory grew by {grown / MEGABYTE:.1f} MB")
    assert grown < ROOM_BYTES


async def test_many_large_bodies_at_once_are_held_to_a_bound(server):
    async with honest_sender(server) as seconds:
        while len(seconds) < 200:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        before = server.resident_bytes()
        bodies = (server.post(b"[" + b" " * (9 * MEGABYTE)) for _ in range(20))
        answers = await asyncio.gather(*bodies)
    assert {(status, body["code"]) for status, body, _ in answers} <= {
        (400, "malformed_json"),
        (429, "overloaded"),
    }
    assert all(headers["retry-after"] for status, _, headers in answers if status == 429)
    grown = server.resident_bytes() - before
    print(f"memory grew by {grown / MEGABYTE:.1f} MB")
    assert grown < 3 * ROOM_BYTES
