"""Verb: ask an outside tax engine what documents are taxed, and keep what it answers.

No transaction is open while it is asked. Where its address leads is looked at before it is called
and called as it was looked at, so that a name cannot lead into our own network.
"""

import asyncio
import socket
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, Self

import httpx
import msgspec

from engine.db import Database
from engine.errors import BillingError
from invoicing.tax_answer_store import save_tax_answers
from invoicing.tax_provider import (
    TaxAnswer,
    TaxProvider,
    TaxQuestion,
    TaxUnknownError,
    answer_invalid,
    given_taxes,
    provider_failed,
)
from plans.tax_providers import TaxProviderTerms, is_public

AT_ONCE: Final = 8
PATIENCE: Final = 5
"""So many questions in a row without an answer, and the others are not asked any more."""

ANSWER_BYTES: Final = 4_000_000
_OK: Final = 200
_PORTS: Final[Mapping[str, int]] = {"https": 443, "http": 80}
_DECODER: Final = msgspec.json.Decoder(TaxAnswer)


class HttpTaxProvider:
    """A tax engine at an address of the seller's: the question as a JSON POST, the answer as JSON.

    Addresses of private networks, and addresses without TLS, are called only when `private`.
    """

    def __init__(self, *, terms: TaxProviderTerms, private: bool) -> None:
        """Open no connection yet; use it as a context."""
        self._terms = terms
        self._private = private
        self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> Self:
        """Keep connections for the length of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close them."""
        await self._client.aclose()

    async def ask(self, question: TaxQuestion) -> TaxAnswer:
        """One answer within the deadline, held against its question.

        Errors: `tax_provider_failed`, `tax_answer_invalid`.
        """
        seconds = self._terms.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                body = await self._post(msgspec.json.encode(question))
        except TimeoutError:
            detail = f"the tax provider did not answer within {seconds} seconds"
            raise provider_failed(detail) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            detail = f"the tax provider cannot be reached: {type(error).__name__}"
            raise provider_failed(detail) from None
        try:
            answer = _DECODER.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise answer_invalid(f"the tax provider's answer cannot be read: {error}") from None
        given_taxes(question=question, answer=answer)
        return answer

    async def _post(self, body: bytes) -> bytes:
        url = httpx.URL(self._terms.url)
        if url.scheme != "https" and not self._private:
            raise provider_failed("the tax provider's address is not https")
        address = await self._resolved(url)
        headers = {"Content-Type": "application/json", "Host": url.netloc.decode("ascii")}
        if self._terms.authorization is not None:
            headers["Authorization"] = self._terms.authorization
        found = bytearray()
        async with self._client.stream(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers=headers,
            timeout=self._terms.deadline_seconds,
            extensions={"sni_hostname": url.host},
        ) as response:
            if response.status_code != _OK:
                raise provider_failed(f"the tax provider answered {response.status_code}")
            async for part in response.aiter_bytes():
                found += part
                if len(found) > ANSWER_BYTES:
                    raise provider_failed("the tax provider's answer is too long")
        return bytes(found)

    async def _resolved(self, url: httpx.URL) -> str:
        """The address behind the name; none of those it has may lie in a private network."""
        port = url.port or _PORTS[url.scheme]
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not self._private and not all(map(is_public, addresses)):
            raise provider_failed("the tax provider's address lies in a private network")
        return addresses[0]


async def answer_taxes(
    *, database: Database, seller: int, unknown: TaxUnknownError, now: datetime
) -> dict[str, BillingError]:
    """Ask all questions and keep the answers; why each of the others has none, by its hash."""
    answers: dict[str, tuple[TaxQuestion, TaxAnswer]] = {}
    failures: dict[str, BillingError] = {}
    async with HttpTaxProvider(terms=unknown.terms, private=database.private_addresses) as provider:
        await _ask_all(provider, unknown.questions, answers, failures)
    async with database.transaction(seller=seller) as connection:
        await save_tax_answers(
            connection=connection, url=unknown.terms.url, answers=answers, now=now
        )
    return failures


class TaxDesk:
    """Asks each question once in a run, however often documents are made again."""

    def __init__(self, *, database: Database, seller: int) -> None:
        """Nothing was asked yet."""
        self._database = database
        self._seller = seller
        self._failures: dict[str, BillingError] = {}

    async def ask(self, unknown: TaxUnknownError, *, now: datetime) -> BillingError | None:
        """Ask what was not asked yet; a failure when all of it was asked in vain."""
        in_vain = [name for name in unknown.questions if name in self._failures]
        if len(in_vain) == len(unknown.questions):
            return self._failures[in_vain[0]]
        for name in in_vain:
            del unknown.questions[name]
        self._failures |= await answer_taxes(
            database=self._database, seller=self._seller, unknown=unknown, now=now
        )
        return None


async def answer_every_tax(
    *, database: Database, seller: int, unknown: TaxUnknownError, now: datetime
) -> None:
    """The same for one document that somebody waits for. Errors: the first failure."""
    failures = await answer_taxes(database=database, seller=seller, unknown=unknown, now=now)
    for failure in failures.values():
        raise failure


async def _ask_all(
    provider: TaxProvider,
    questions: Mapping[str, TaxQuestion],
    answers: dict[str, tuple[TaxQuestion, TaxAnswer]],
    failures: dict[str, BillingError],
) -> None:
    """Some at a time. A provider that is away is not waited for once for every document."""
    waiting = list(questions.items())[::-1]
    in_a_row = 0

    async def work() -> None:
        nonlocal in_a_row
        while waiting:
            name, question = waiting.pop()
            if in_a_row >= PATIENCE:
                failures[name] = provider_failed("the tax provider does not answer")
                continue
            try:
                answers[name] = (question, await provider.ask(question))
                in_a_row = 0
            except BillingError as error:
                failures[name] = error
                in_a_row += error.code == "tax_provider_failed"

    async with asyncio.TaskGroup() as group:
        for _ in range(min(AT_ONCE, len(waiting))):
            group.create_task(work())
