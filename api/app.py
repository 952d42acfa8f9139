"""The composition root of the HTTP API: the one place that has the clock and the database."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, cast

from litestar import Litestar, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.handlers import BaseRouteHandler
from litestar.plugins.prometheus import PrometheusConfig, PrometheusController
from litestar.types import ControllerRouterHandler
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from sqlalchemy.ext.asyncio import AsyncConnection

from api import (
    backfills,
    billing_runs,
    coupons,
    credit_grants,
    credit_notes,
    customers,
    drafts,
    emails,
    events,
    exports,
    health,
    ingest,
    intake_errors,
    invoices,
    journal,
    keys,
    meters,
    outbox,
    payments,
    plans,
    previews,
    refunds,
    run_steps,
    sellers,
    simulations,
    statements,
    subscriptions,
    tax_rates,
    usage,
    usage_alerts,
    write_offs,
)
from api.auth import Authenticator, Principal, declared_scope, require_key
from api.bodies import StrictBody
from api.idempotency import before_handler, unit_of
from api.openapi import openapi_config, serve_openapi
from api.pagination import provide_page
from api.problems import answer_with_problem
from api.run_metrics import run_metrics
from api.unit_of_work import CommitBeforeAnswer
from engine.db import Database
from metering.ingest import COMMIT_SECONDS, Ingester
from plans.model import Mode, Seller
from plans.seller_store import load_seller

BODY_LIMIT_BYTES: Final = 1_000_000
BODY_TIMEOUT_SECONDS: Final = 10
ROUTES: Final[tuple[ControllerRouterHandler, ...]] = (
    health.get_health,
    health.get_readiness,
    serve_openapi,
    *sellers.ROUTES,
    *keys.ROUTES,
    *customers.ROUTES,
    *statements.ROUTES,
    *meters.ROUTES,
    ingest.ingest_events,
    *events.ROUTES,
    *intake_errors.ROUTES,
    *backfills.ROUTES,
    *usage.ROUTES,
    *usage_alerts.ROUTES,
    *outbox.ROUTES,
    *plans.ROUTES,
    *tax_rates.ROUTES,
    *coupons.ROUTES,
    *payments.ROUTES,
    *refunds.ROUTES,
    *emails.ROUTES,
    *credit_grants.ROUTES,
    *subscriptions.ROUTES,
    *billing_runs.ROUTES,
    *run_steps.ROUTES,
    *invoices.ROUTES,
    *write_offs.ROUTES,
    *credit_notes.ROUTES,
    *previews.ROUTES,
    *drafts.ROUTES,
    *journal.ROUTES,
    *exports.ROUTES,
    *simulations.ROUTES,
)


class Metrics(PrometheusController):
    """`GET /metrics`."""

    path = "/metrics"
    include_in_schema = False
    opt = {"public": True}  # noqa: RUF012 - the base class declares it so

    @get()
    async def get(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """What this process counts, and how far billing runs are, wherever they work."""
        runs = await run_metrics(database=request.app.state.database)
        return Response(
            generate_latest(REGISTRY) + runs, headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


async def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    """The dependency `principal`: whose key the request carries."""
    return cast("Principal", request.state.principal)


async def provide_connection(
    request: Request[Any, Any, Any], principal: NamedDependency[Principal]
) -> AsyncConnection:
    """The dependency `connection`: the request's one transaction, in the name of its seller."""
    return await unit_of(request).connection(seller=principal.seller)


async def provide_seller(connection: NamedDependency[AsyncConnection]) -> Seller:
    """The dependency `seller`: the business in whose name the request acts."""
    return await load_seller(connection=connection)


async def provide_wall_now(request: Request[Any, Any, Any]) -> datetime:
    """The dependency `wall_now`: for keys, leases, idempotency and fresh ids."""
    return cast("datetime", request.app.state.clock())


async def provide_now(
    seller: NamedDependency[Seller], wall_now: NamedDependency[datetime]
) -> datetime:
    """The dependency `now`: business time, which a test seller's own clock tells."""
    if seller.mode is Mode.TEST:
        assert seller.clock_at is not None
        return seller.clock_at
    return wall_now


def create_app(
    *,
    database: Database,
    clock: Callable[[], datetime],
    routes: Sequence[ControllerRouterHandler] = ROUTES,
    body_limit_bytes: int = BODY_LIMIT_BYTES,
    body_timeout_seconds: int = BODY_TIMEOUT_SECONDS,
    commit_seconds: float = COMMIT_SECONDS,
    owns_database: bool = False,
) -> Litestar:
    """The application on a database opened as `usance_app`; `clock` gives wall time in UTC.

    `routes` are handlers, controllers or routers; each handler declares `opt={"scope": …}` or
    `opt={"public": True}`. Events not committed within `commit_seconds` are answered 503.
    `owns_database` closes the pool at shut-down.
    """
    ingester = Ingester(database=database, commit_seconds=commit_seconds)

    metrics = PrometheusConfig(app_name="usance", prefix="usance", group_path=True)
    app = ingest.EventsFirst(
        route_handlers=[*routes, Metrics],
        state=State(
            {
                "database": database,
                "clock": clock,
                "ingester": ingester,
                "authenticator": Authenticator(database=database, clock=clock),
            }
        ),
        dependencies={
            "principal": Provide(provide_principal),
            "connection": Provide(provide_connection),
            "seller": Provide(provide_seller),
            "wall_now": Provide(provide_wall_now),
            "now": Provide(provide_now),
            "page": Provide(provide_page),
        },
        guards=[require_key],
        before_request=before_handler,
        middleware=[
            metrics.middleware,
            CommitBeforeAnswer(
                database=database, clock=clock, body_timeout_seconds=body_timeout_seconds
            ),
        ],
        exception_handlers={Exception: answer_with_problem},
        dto=StrictBody,
        return_dto=None,
        openapi_config=openapi_config(),
        on_startup=[ingester.start],
        on_shutdown=[ingester.stop, *([database.close] if owns_database else [])],
        request_max_body_size=body_limit_bytes,
        debug=False,
        logging_config=None,
    )
    refuse_undeclared(app)
    app.state.query_names = _query_names(app)
    return app


def _query_names(app: Litestar) -> dict[BaseRouteHandler, frozenset[str]]:
    """The names that each handler knows in a query."""
    found: dict[BaseRouteHandler, frozenset[str]] = {}
    for route in app.routes:
        pairs = cast("dict[str, Any]", getattr(route, "route_handler_map", {}))
        for handler, arguments in pairs.values():
            names = (one.field_alias for one in arguments.expected_query_params)
            found[handler] = frozenset(names)
    return found


def handlers_of(app: Litestar) -> list[tuple[str, str, BaseRouteHandler]]:
    """(method, path, handler) of every route, OPTIONS left out; mounted ones have method `*`."""
    found: list[tuple[str, str, BaseRouteHandler]] = []
    for route in app.routes:
        pairs = cast("dict[str, Any]", getattr(route, "route_handler_map", {}))
        for method, (handler, _) in pairs.items():
            if method != "OPTIONS":
                found.append((method, route.path_format, handler))
        if not pairs:
            found.append(("*", route.path_format, cast("Any", route).route_handler))
    return found


def refuse_undeclared(app: Litestar) -> None:
    """A route that says nothing about its scope stops the start."""
    for method, path, handler in handlers_of(app):
        try:
            declared_scope(handler)
        except (KeyError, ValueError):
            message = (
                f'{method} {path} declares neither opt={{"scope": …}} nor opt={{"public": True}}'
            )
            raise RuntimeError(message) from None
