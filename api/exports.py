"""`/v1/exports/….csv`: tables of the seller's, streamed from one snapshot."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.response import Stream

from api.auth import Principal
from invoicing.export_csv import export_csv
from invoicing.export_focus import export_focus
from invoicing.export_table import ExportKind
from plans.api_keys import Scope

MEDIA_TYPE: Final = "text/csv"
From = Annotated[
    str | None,
    QueryParameter(
        name="from",
        description="The first day, in the seller's timezone, or an RFC 3339 instant.",
    ),
]
To = Annotated[
    str | None,
    QueryParameter(name="to", description="The first day or instant that is left out again."),
]
Account = Annotated[
    str | None, QueryParameter(description="Only what this customer was billed (key or id).")
]
_TOLD: Final = {
    ExportKind.INVOICES: "Invoices issued in [from, to), in the order of issue.",
    ExportKind.INVOICE_LINES: "The lines of the invoices issued in [from, to).",
    ExportKind.CREDIT_NOTES: "Credit notes issued in [from, to), in the customer's favour.",
    ExportKind.CREDIT_NOTE_LINES: "The lines of the credit notes issued in [from, to).",
    ExportKind.JOURNAL: (
        "A row for each posting of the entries dated on a day that begins in [from, to);"
        " debits and credits come to the same sum."
    ),
    ExportKind.CUSTOMERS: "Customers made in [from, to).",
}


async def begun(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same pieces; what is wrong with the request shows before the first is asked for."""
    first = await anext(chunks)

    async def pieces() -> AsyncGenerator[bytes, None]:
        async with aclosing(chunks):
            yield first
            async for chunk in chunks:
                yield chunk

    return pieces()


async def stream_csv(chunks: AsyncGenerator[bytes, None], *, name: str) -> Stream:
    """An answer that streams; what is wrong with the request shows before it begins."""
    disposition = f'attachment; filename="{name}.csv"'
    headers = {"content-disposition": disposition}
    return Stream(await begun(chunks), media_type=MEDIA_TYPE, headers=headers)


def _route(kind: ExportKind) -> HTTPRouteHandler:
    words = kind.value.replace("_", " ")

    @get(
        f"/v1/exports/{kind.value}.csv",
        operation_id="export" + words.title().replace(" ", ""),
        summary=f"Export {words} as CSV",
        description=_TOLD[kind],
        tags=["Exports"],
        media_type=MEDIA_TYPE,
        opt={"scope": Scope.READ, "problems": [422]},
    )
    async def export(
        request: Request[Any, Any, Any],
        principal: NamedDependency[Principal],
        start: From = None,
        end: To = None,
    ) -> Stream:
        chunks = export_csv(
            database=request.app.state.database,
            seller=principal.seller,
            kind=kind,
            start=start,
            end=end,
        )
        return await stream_csv(chunks, name=kind.value)

    return export


@get(
    "/v1/exports/focus.csv",
    operation_id="exportFocus",
    summary="Export billed cost in the FOCUS format",
    tags=["Exports"],
    media_type=MEDIA_TYPE,
    opt={"scope": Scope.READ, "problems": [404, 422]},
)
async def export_focus_csv(
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    customer: Account = None,
    start: From = None,
    end: To = None,
) -> Stream:
    """Documents issued in [from, to) by FOCUS 1.2; BilledCost sums up to each one's total."""
    chunks = export_focus(
        database=request.app.state.database,
        seller=principal.seller,
        customer=customer,
        start=start,
        end=end,
    )
    return await stream_csv(chunks, name="focus")


ROUTES: Final = (*(_route(kind) for kind in ExportKind), export_focus_csv)
