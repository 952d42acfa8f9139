"""The client: a bounded queue, and a thread that empties it."""

import asyncio
import atexit
import logging
import os
import random
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

from usance_client.events import Event, QueueFull, Rejection, make_event
from usance_client.transport import Transport

_log = logging.getLogger("usance_client")
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_RETRY_AFTER_SECONDS = 300.0


class UsageClient:
    """Records usage events and sends them in the background; for any number of threads.

    `url` is the server's address, `key` an API key with the scope `ingest`. See the README for
    what the bounds mean. `on_reject` hears of each event that was refused for good.
    """

    def __init__(
        self,
        *,
        url: str,
        key: str,
        batch_events: int = 500,
        batch_bytes: int = 500_000,
        batch_seconds: float = 1.0,
        queue_events: int = 50_000,
        queue_bytes: int = 64_000_000,
        when_full: Literal["block", "raise"] = "block",
        timeout_seconds: float = 10.0,
        exit_seconds: float = 5.0,
        compress: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        on_reject: Callable[[Rejection], object] | None = None,
    ) -> None:
        """Nothing is sent, and no thread started, before the first event."""
        if min(batch_events, batch_bytes, queue_events, queue_bytes) < 1 or batch_events > 10_000:
            raise ValueError("a bound is out of range")
        self._transport = Transport(url, key, timeout_seconds, compress, ssl_context)
        self._batch_events = batch_events
        self._batch_bytes = batch_bytes
        self._batch_seconds = batch_seconds
        self._queue_events = queue_events
        self._queue_bytes = queue_bytes
        self._when_full = when_full
        self._exit_seconds = exit_seconds
        self._on_reject = on_reject
        self.last_problem: str | None = None
        """Why the last batch was not taken; None once one is."""
        self._reset()
        self._unwatch = _watch(self)

    def _reset(self) -> None:
        """Empty, without a thread: at the start, and in a child after a fork."""
        self._transport.close()
        self._changed = threading.Condition()
        self._queue: deque[tuple[Event, float]] = deque()
        self._sending: list[Event] = []
        self._held_bytes = 0
        self._recorded = self._settled = self._flush_to = 0
        self._closed = False
        self._give_up = False
        self._thread: threading.Thread | None = None

    # Recording

    def record(
        self,
        *,
        type: str,
        subject: str,
        data: Mapping[str, Any] | None = None,
        id: str | None = None,
        source: str | None = None,
        time: datetime | None = None,
        timeout_seconds: float | None = None,
    ) -> str:
        """Take an event to be sent; gives its id.

        Waits for room, at most `timeout_seconds`. Raises QueueFull when there is none, TypeError
        or ValueError for what cannot be an event, RuntimeError after `close`.
        """
        event = make_event(type=type, subject=subject, data=data, id=id, source=source, time=time)
        wait = timeout_seconds if self._when_full == "block" else 0.0
        self._put(event, wait_seconds=wait)
        return event.id

    async def record_async(
        self,
        *,
        type: str,
        subject: str,
        data: Mapping[str, Any] | None = None,
        id: str | None = None,
        source: str | None = None,
        time: datetime | None = None,
        timeout_seconds: float | None = None,
    ) -> str:
        """The same without blocking the loop while there is no room."""
        event = make_event(type=type, subject=subject, data=data, id=id, source=source, time=time)
        try:
            self._put(event, wait_seconds=0.0)
        except QueueFull:
            if self._when_full == "raise":
                raise
            await asyncio.to_thread(self._put, event, wait_seconds=timeout_seconds)
        return event.id

    def record_again(self, event: Event, *, timeout_seconds: float | None = None) -> None:
        """Take an event that `close` gave back, under the id it had."""
        self._put(event, wait_seconds=timeout_seconds if self._when_full == "block" else 0.0)

    def _put(self, event: Event, *, wait_seconds: float | None) -> None:
        size = len(event.content)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(size), wait_seconds)
            if self._closed:
                raise RuntimeError("the client is closed")
            if not self._has_room(size):
                raise QueueFull
            self._queue.append((event, time.monotonic()))
            self._held_bytes += size
            self._recorded += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="usance-client", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        held = len(self._queue) + len(self._sending)
        # An event larger than the whole bound is taken when it is alone.
        return held < self._queue_events and (
            not held or self._held_bytes + size <= self._queue_bytes
        )

    @property
    def pending(self) -> int:
        """Events that nobody has answered for yet."""
        with self._changed:
            return self._recorded - self._settled

    # Flushing and ending

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Send what was recorded so far in batches of any size; tells if all is settled."""
        with self._changed:
            target = self._recorded
            self._flush_to = max(self._flush_to, target)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= target, timeout_seconds)

    async def flush_async(self, timeout_seconds: float | None = None) -> bool:
        """The same without blocking the loop."""
        return await asyncio.to_thread(self.flush, timeout_seconds)

    def close(self, timeout_seconds: float | None = None) -> list[Event]:
        """Flush, then end; gives the events that nobody answered for, oldest first.

        Some of those may be stored all the same: record them again under their ids. Waits at most
        `timeout_seconds`, the client's `exit_seconds` unless given. Closing again gives the same.
        """
        wait = self._exit_seconds if timeout_seconds is None else timeout_seconds
        until = time.monotonic() + wait
        with self._changed:
            self._closed = True
            self._flush_to = self._recorded
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._settled >= self._recorded, wait)
            self._give_up = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            return [*self._sending, *(event for event, _ in self._queue)]

    def __enter__(self) -> Self:
        """The client; it is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close, and say in the log what was left."""
        self._close_and_tell()

    async def __aenter__(self) -> Self:
        """The client; it is closed at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close without blocking the loop."""
        await asyncio.to_thread(self._close_and_tell)

    def _close_and_tell(self) -> None:
        left = self.close()
        self._unwatch()
        if left:
            _log.error("%d usage events were not sent: %s", len(left), self.last_problem)

    # The thread

    def _run(self) -> None:
        try:
            while self._fill():
                self._send()
        finally:
            self._transport.close()

    def _fill(self) -> bool:
        """Wait for a batch and take it out of the queue; False at the end."""
        with self._changed:
            while not self._is_due():
                if self._closed and (self._give_up or not self._queue):
                    return False
                self._changed.wait(self._until_due())
            if self._give_up:
                return False
            size = 0
            while self._queue and len(self._sending) < self._batch_events:
                size += len(self._queue[0][0].content)
                if self._sending and size > self._batch_bytes:
                    break
                self._sending.append(self._queue.popleft()[0])
            return True

    def _is_due(self) -> bool:
        if not self._queue:
            return False
        return (
            self._settled < self._flush_to
            or len(self._queue) >= self._batch_events
            or self._held_bytes >= self._batch_bytes
            or self._until_due() == 0
        )

    def _until_due(self) -> float | None:
        if not self._queue:
            return None
        return max(0.0, self._queue[0][1] + self._batch_seconds - time.monotonic())

    def _send(self) -> None:
        """Send the batch until it is answered for, or the client gives up."""
        size = len(self._sending)
        pause = _FIRST_PAUSE_SECONDS
        while self._sending:
            batch = self._sending[:size]
            outcome = self._transport.send(batch)
            self.last_problem = outcome.problem or None
            if outcome.settled:
                self._settle(batch, outcome.rejections)
                pause = _FIRST_PAUSE_SECONDS
            elif not outcome.again and len(batch) > 1:
                # Refused as a whole: smaller ones tell which event is to blame.
                size = (len(batch) + 1) // 2
            elif not outcome.again:
                self._settle(batch, [Rejection(batch[0], outcome.code, outcome.problem)])
            else:
                _log.warning("usage events are sent again: %s", outcome.problem)
                least = min(outcome.wait_seconds, _LONGEST_RETRY_AFTER_SECONDS)
                if self._pause(least + pause * random.uniform(0.5, 1.0)):  # noqa: S311
                    return
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _pause(self, seconds: float) -> bool:
        """Wait; True when the client gives up meanwhile."""
        with self._changed:
            return self._changed.wait_for(lambda: self._give_up, seconds)

    def _settle(self, batch: list[Event], rejections: Any) -> None:
        for rejection in rejections:
            try:
                if self._on_reject is not None:
                    self._on_reject(rejection)
                else:
                    told = (rejection.event.id, rejection.code, rejection.detail)
                    _log.error("usage event %s was refused: %s: %s", *told)
            except Exception:  # noqa: BLE001 - what the caller does there is no reason to stop
                _log.exception("on_reject failed")
        with self._changed:
            del self._sending[: len(batch)]
            self._held_bytes -= sum(len(event.content) for event in batch)
            self._settled += len(batch)
            self._changed.notify_all()


def _watch(client: UsageClient) -> Callable[[], None]:
    """Close it when the interpreter ends, empty it in a child; gives what ends the former."""
    reference = weakref.ref(client)

    def at_exit() -> None:
        living = reference()
        if living is not None:
            living.__exit__(None, None, None)

    def in_child() -> None:
        living = reference()
        if living is not None:
            living._reset()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    atexit.register(at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_child)
    return lambda: atexit.unregister(at_exit)
