"""An application driven without a socket: requests go straight into its ASGI entry.

For the check runner, the demo and the importers, which run in the application's own process.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

Scope = dict[str, Any]
Message = dict[str, Any]
Application = Callable[
    [Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

PATIENCE_SECONDS: Final = 300
"""So long what the API cannot do now is tried again, counted from the first time."""
_NOT_NOW: Final = frozenset({429, 503})
_LONGEST_PAUSE_SECONDS: Final = 10.0
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back: the status, the raw body, and the headers by their names in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON; None when there is none."""
        return msgspec.json.decode(self.body) if self.body else None


class Client:
    """Sends requests as the holder of one API key."""

    def __init__(self, *, application: Application, key: str) -> None:
        """`key` is the secret text of an API key."""
        self._application = application
        self._headers = [
            (b"host", b"in-process"),
            (b"authorization", b"Bearer " + key.encode()),
        ]

    async def get(self, path: str) -> Answer:
        """GET `path`, which may hold a query."""
        return await self.send("GET", path, content=b"", headers={})

    async def post(self, path: str, body: Any) -> Answer:
        """POST `body` as JSON; Decimals go out as numbers, digit by digit."""
        content = _ENCODER.encode(body)
        return await self.send(
            "POST", path, content=content, headers={"content-type": "application/json"}
        )

    async def create(self, path: str, body: Any) -> Answer:
        """POST `body` as JSON; whatever is lost on the way, what it asks for is done once."""
        headers = {"content-type": "application/json", "idempotency-key": secrets.token_hex(16)}
        return await self.send("POST", path, content=_ENCODER.encode(body), headers=headers)

    async def patch(self, path: str, body: Any) -> Answer:
        """PATCH with `body` as JSON."""
        content = _ENCODER.encode(body)
        return await self.send(
            "PATCH", path, content=content, headers={"content-type": "application/json"}
        )

    async def send(
        self, method: str, path: str, *, content: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """One request, its body given whole; waits for the whole answer."""
        plain, _, query = path.partition("?")
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": plain,
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [*self._headers, (b"content-length", b"%d" % len(content)), *sent],
            "client": ("127.0.0.1", 0),
            "server": ("in-process", 80),
            "state": {},
            "extensions": {},
        }
        pending = [{"type": "http.request", "body": content, "more_body": False}]
        finished = asyncio.Event()
        status, parts = 500, list[bytes]()
        named: dict[str, str] = {}

        async def receive() -> Message:
            if pending:
                return pending.pop()
            await finished.wait()
            return {"type": "http.disconnect"}

        async def collect(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message.get("headers", ()):
                    named[bytes(name).decode("latin-1").lower()] = bytes(value).decode("latin-1")
            elif message["type"] == "http.response.body":
                parts.append(bytes(message.get("body", b"")))
                if not message.get("more_body", False):
                    finished.set()

        await self._application(scope, receive, collect)
        return Answer(status=status, body=b"".join(parts), headers=named)


class PatientClient(Client):
    """Sends a request again, after the pause that was asked for, while the API cannot take it.

    For events, which their ids tell apart, for `create`, and for what may be asked twice.
    """

    def __init__(
        self, *, application: Application, key: str, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """After `patience_seconds` a refusal is given as it came."""
        super().__init__(application=application, key=key)
        self._patience_seconds = patience_seconds

    async def send(
        self, method: str, path: str, *, content: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """One request, until it is answered by something else than 429 or 503."""
        seconds = asyncio.get_running_loop().time
        until, longer = seconds() + self._patience_seconds, 0.0
        while True:
            answer = await super().send(method, path, content=content, headers=headers)
            if answer.status not in _NOT_NOW or seconds() >= until:
                return answer
            asked = answer.headers.get("retry-after", "")
            await asyncio.sleep((int(asked) if asked.isdigit() else 1) + longer)
            longer = min(_LONGEST_PAUSE_SECONDS, 2 * longer + 0.5)


@asynccontextmanager
async def lifespan(*, application: Application) -> AsyncIterator[None]:
    """Run the application's start-up before the block and its shut-down after it."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
    scope["state"] = {}
    task = asyncio.ensure_future(application(scope, inbox.get, outbox.put))

    async def say(kind: str) -> None:
        await inbox.put({"type": f"lifespan.{kind}"})
        answer = asyncio.ensure_future(outbox.get())
        await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            message = answer.result()
            if message["type"] != f"lifespan.{kind}.complete":
                reason = message.get("message", "")
                raise RuntimeError(f"{kind} failed: {reason}")
        else:
            answer.cancel()
            await task

    await say("startup")
    try:
        yield
    finally:
        await say("shutdown")
        await task
