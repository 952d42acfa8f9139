"""Verb: an issued document as PDF, from what is stored and nothing else."""

from fractions import Fraction
from itertools import pairwise

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.document_store import PrintedLine, parties_of, printed_lines
from invoicing.model import CreditNote, Invoice, LineItem, Reason
from invoicing.paper import build_paper
from invoicing.paper_lines import PaperDetail, PaperLine, paper_line
from invoicing.pdf import render_pdf
from plans.model import GraduatedPrice, Kind, Price, VolumePrice
from rating.exact import ratio
from rating.explain import tier_detail


async def print_document(
    *, connection: AsyncConnection, document: Invoice | CreditNote, timezone: str
) -> bytes:
    """The PDF of an invoice or credit note; equal bytes for equal facts."""
    seller, customer = await parties_of(connection=connection, document=document.id)
    printed = await printed_lines(connection=connection, document=document.id)
    paper = build_paper(
        document=document,
        seller=seller,
        customer=customer,
        lines=[_paper_line(line, printed[line.id]) for line in document.lines],
        timezone=timezone,
    )
    return render_pdf(paper=paper)


def _paper_line(line: LineItem, printed: PrintedLine) -> PaperLine:
    price = msgspec.convert(printed.price, Price)
    return paper_line(
        item=line,
        price=price,
        adjusts=printed.adjusted_number,
        details=_details(line, price),
    )


def _details(line: LineItem, price: Price) -> tuple[PaperDetail, ...]:
    """The tiers of a first charge for usage: a difference is no sum of whole tiers."""
    if not isinstance(price, GraduatedPrice | VolumePrice) or line.quantity is None:
        return ()
    if line.reason is not Reason.INITIAL or price.kind is not Kind.USAGE or price.prorate_tiers:
        return ()
    steps = tier_detail(
        price=price, quantity=max(ratio(line.quantity), Fraction(0)), fraction=Fraction(1)
    )
    labels = _tier_labels(price)
    if isinstance(price, VolumePrice):
        return tuple(
            PaperDetail(
                tier="All units at one price",
                units=step.units,
                unit_amount=step.unit_amount,
                flat_amount=step.flat_amount,
                amount=step.amount,
            )
            for step in steps
        )
    return tuple(
        PaperDetail(
            tier=label,
            units=step.units,
            unit_amount=step.unit_amount,
            flat_amount=step.flat_amount,
            amount=step.amount,
        )
        for label, step in zip(labels, steps, strict=False)
    )


def _tier_labels(price: GraduatedPrice | VolumePrice) -> list[str]:
    bounds = [tier.up_to for tier in price.tiers]
    labels = ["All units" if bounds[0] is None else f"First {bounds[0]}"]
    for lower, upper in pairwise(bounds):
        labels.append(f"Above {lower}" if upper is None else f"Above {lower} up to {upper}")
    return labels
