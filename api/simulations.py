"""`/v1/simulations`: another price list over past usage, answered while the caller waits."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from api.auth import Principal
from api.business_time import business_now
from api.exports import MEDIA_TYPE, begun, stream_csv
from engine.db import Database
from invoicing.backtest import Backtest, open_backtest
from invoicing.export_table import write_csv
from invoicing.simulation import COLUMNS, CustomerEffect, Simulation, SimulationDraft, csv_row
from plans.api_keys import Scope

PAGE: Final = 1_000
"""Customers taken at once: other requests have their turn between pages."""

_SPACE: Final = b"\n"
"""White space before the JSON tells that it is being worked on."""


async def _json(opened: Backtest) -> AsyncGenerator[bytes, None]:
    yield _SPACE
    async for _ in opened.effects():
        yield _SPACE
    yield msgspec.json.encode(opened.answer())


async def _csv(opened: Backtest) -> AsyncGenerator[bytes, None]:
    yield write_csv([list(COLUMNS)])
    async for effects in opened.effects():
        yield _rows(effects)


def _rows(effects: list[CustomerEffect]) -> bytes:
    return write_csv([csv_row(effect) for effect in effects])


async def _answered(
    request: Request[Any, Any, Any],
    seller: int,
    draft: SimulationDraft,
    wall_now: datetime,
    pieces: Callable[[Backtest], AsyncGenerator[bytes, None]],
) -> AsyncGenerator[bytes, None]:
    """The pieces of one snapshot; what is wrong with the body shows before the first."""
    database: Database = request.app.state.database
    now = await business_now(database=database, seller=seller, wall_now=wall_now)
    async with database.transaction(seller=seller, snapshot=True) as connection:
        opened = await open_backtest(
            connection=connection, seller=seller, draft=draft, now=now, page=PAGE
        )
        async with aclosing(pieces(opened)) as found:
            async for piece in found:
                yield piece


@post(
    "/v1/simulations",
    operation_id="simulatePrices",
    summary="Try another price list on past usage",
    tags=["Simulations"],
    status_code=200,
    media_type="application/json",
    opt={"scope": Scope.READ, "idempotent": False, "answer": Simulation},
)
async def simulate_prices(
    data: JSONBody[SimulationDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Stream:
    """What other prices would have made of the billing periods that ended in (from, to].

    Derived as invoices are, with the usage and the agreements of the past, before coupons, credit
    and tax; nothing is posted or kept. A large seller's year takes a minute: white space is sent
    while it is worked on, and closing the connection ends the work. One at a time for a seller.
    """
    chunks = _answered(request, principal.seller, data, wall_now, _json)
    return Stream(await begun(chunks), media_type="application/json")


@post(
    "/v1/simulations/customers.csv",
    operation_id="simulatePricesByCustomer",
    summary="Try another price list, customer by customer, as CSV",
    tags=["Simulations"],
    status_code=200,
    media_type=MEDIA_TYPE,
    opt={"scope": Scope.READ, "idempotent": False},
)
async def simulate_prices_by_customer(
    data: JSONBody[SimulationDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Stream:
    """The same by customer and currency, with everybody in it who had a charge in the stretch.

    Customers of whom nothing can be said are missing here; the other answer names them.
    """
    chunks = _answered(request, principal.seller, data, wall_now, _csv)
    return await stream_csv(chunks, name="simulation")


ROUTES: Final = (simulate_prices, simulate_prices_by_customer)
