"""The body of a request that brings events, as it arrives: inflated, bounded, drained."""

import asyncio
import contextlib
import zlib
from collections.abc import Mapping
from typing import Any, Final, cast

from litestar.types import Receive

from api.admission import Admission
from engine.errors import BillingError, ErrorKind
from metering.body_shape import LARGE_BYTES

BODY_LIMIT_BYTES: Final = 10_000_000
"""Of a body as it was sent, and of what it is when inflated."""
DRAIN_BYTES: Final = 20_000_000
DRAIN_SECONDS: Final = 2.0
_SOON_SECONDS: Final = 0.002
_LONG_LENGTH: Final = 20


def too_large() -> BillingError:
    """A body beyond the limit."""
    detail = f"a body holds at most {BODY_LIMIT_BYTES} bytes"
    return BillingError("body_too_large", detail, kind=ErrorKind.TOO_LARGE)


class Body:
    """The body of one request as it arrives, inflated part by part and never beyond the limit."""

    def __init__(self, *, gzip: bool, admission: Admission) -> None:
        """Nothing has arrived."""
        self._admission = admission
        self._inflater = zlib.decompressobj(wbits=31) if gzip else None
        self._parts: list[bytes] = []
        self._arrived = self._held = 0

    def add(self, part: bytes) -> None:
        """One more part. Errors: `body_too_large`, `malformed_gzip`; Refusal: `overloaded`."""
        self._arrived += len(part)
        if self._arrived > BODY_LIMIT_BYTES:
            raise too_large()
        if self._inflater is not None:
            part = self._inflate(part, self._inflater)
        if self._held + len(part) > BODY_LIMIT_BYTES:
            raise too_large()
        self._admission.hold(len(part))
        self._held += len(part)
        self._parts.append(part)

    def _inflate(self, part: bytes, inflater: Any) -> bytes:
        if inflater.eof and part:
            raise _malformed_gzip("the gzip goes on after its end")
        try:
            # One byte more than there is room for tells a bomb, at the price of an honest body.
            plain = inflater.decompress(part, BODY_LIMIT_BYTES - self._held + 1)
        except zlib.error:
            raise _malformed_gzip("the body is no gzip") from None
        if inflater.unused_data:
            raise _malformed_gzip("the gzip goes on after its end")
        return plain

    def whole(self) -> bytes:
        """All of it. Error: `malformed_gzip`."""
        if self._inflater is not None and not self._inflater.eof:
            raise _malformed_gzip("the gzip ends too early")
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return body

    @property
    def is_large(self) -> bool:
        """Whether reading it takes so long that others would notice."""
        return self._held > LARGE_BYTES

    def release(self) -> None:
        """It is no longer needed."""
        self._parts.clear()
        self._admission.release(self._held)
        self._held = 0


def _malformed_gzip(detail: str) -> BillingError:
    return BillingError("malformed_gzip", detail, kind=ErrorKind.MALFORMED)


class Receiver:
    """What is received, and whether the end of the body was among it."""

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        """Nothing was received; `headers` may say how long the body is."""
        self._receive = receive
        length = b"" if b"transfer-encoding" in headers else headers.get(b"content-length", b"")
        self._left = int(length) if len(length) < _LONG_LENGTH and length.isdigit() else None
        self.ended = False

    async def __call__(self) -> Any:
        """The next message."""
        message = cast("dict[str, Any]", await self._receive())
        more = message["type"] == "http.request" and message.get("more_body", False)
        if more and self._left is not None:
            # The server says only in a message of its own that nothing follows, which costs as
            # much as the body did; who knows the length need not ask.
            self._left -= len(message.get("body", b""))
            more = self._left > 0
        self.ended = not more
        return message

    async def drain(self) -> None:
        """Throw away what is still being sent, within bounds.

        Whoever sends cannot read the answer if the connection ends while it sends.
        """
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.ended and size < DRAIN_BYTES:
                    size += len((await self()).get("body", b""))


class Patience:
    """Reads bodies and gives up those that take too long.

    One timer serves all that are being read, since a timer for each costs as much as its decoding.
    """

    def __init__(self) -> None:
        """Nothing is being read."""
        self._ends: dict[asyncio.Task[Any], float] = {}  # in the order in which they began
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, receive: Receiver, body: Body, *, seconds: float) -> bytes | None:
        """The whole body; None when the client went away.

        `seconds` are the same each time. Raises TimeoutError; errors: those of `Body`.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        end = self._ends[task] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body.add(cast("bytes", message.get("body", b"")))
                if receive.ended:
                    return body.whole()
        except asyncio.CancelledError:
            if task in self._late and task.uncancel() == 0:
                raise TimeoutError from None
            raise
        finally:
            self._ends.pop(task, None)
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what is late and come again when the next one may be."""
        self._timer = None
        now = loop.time() + _SOON_SECONDS
        while self._ends:
            task, end = next(iter(self._ends.items()))
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                return
            del self._ends[task]
            self._late.add(task)
            task.cancel()
