"""When a body has come whole: who knows its length asks for no more than that."""

import asyncio

import pytest

from api.admission import Admission
from api.event_body import Body, Patience, Receiver


def part(body: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def read(messages: list[dict[str, object]], **headers: bytes) -> tuple[bytes | None, bool, int]:
    """(the body, whether it ended, messages that nobody asked for)."""
    left = list(messages)

    async def receive() -> dict[str, object]:
        return left.pop(0)

    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    receiver = Receiver(receive, given)
    body = Body(gzip=False, admission=Admission())
    whole = asyncio.run(Patience().read(receiver, body, seconds=60.0))
    return whole, receiver.ended, len(left)


END = part(b"", more=False)


@pytest.mark.parametrize(
    ("messages", "headers", "expected"),
    [
        ([part(b"abc"), END], {"content_length": b"3"}, (b"abc", True, 1)),
        ([part(b"ab"), part(b"c"), END], {"content_length": b"3"}, (b"abc", True, 1)),
        ([part(b"abc", more=False)], {"content_length": b"3"}, (b"abc", True, 0)),
        ([END], {"content_length": b"0"}, (b"", True, 0)),
        ([part(b"abc"), END], {}, (b"abc", True, 0)),
        ([part(b"abc"), END], {"content_length": b"3", "transfer_encoding": b"chunked"},
         (b"abc", True, 0)),
        ([part(b"abc"), END], {"content_length": b"9" * 5_000}, (b"abc", True, 0)),
        ([part(b"abc"), END], {"content_length": b"-3"}, (b"abc", True, 0)),
        ([part(b"ab"), GONE], {"content_length": b"3"}, (None, True, 0)),
    ],
)  # fmt: skip
def test_a_body_of_known_length_is_whole_when_it_is_there(messages, headers, expected):
    assert read(messages, **headers) == expected


def test_what_is_thrown_away_ends_with_the_body():
    async def drained() -> int:
        left = [part(b"ab"), part(b"c"), END]

        async def receive() -> dict[str, object]:
            return left.pop(0)

        await Receiver(receive, {b"content-length": b"3"}).drain()
        return len(left)

    assert asyncio.run(drained()) == 1
