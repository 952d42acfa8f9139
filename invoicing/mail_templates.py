"""The words of mails: ours in ten languages, the seller's own in their place. Pure.

A blank is a name in braces and nothing else: nothing is evaluated, no attribute is looked up.
A line whose blanks are all without a value is left out.
"""

import html
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Final

import msgspec

from engine.errors import FieldError
from engine.money import format_amount
from invoicing.emails import one_line
from invoicing.mail_facts import MailFacts
from invoicing.mail_words import MAIL_WORDS
from invoicing.paper_frame import Branding, PaperFrame
from invoicing.words.choose import choose_words
from plans.mailing import EmailKind
from plans.shape import Body, Record

SUBJECT_LENGTH: Final = 300
# Braces around anything without a space are meant as a blank; others, as in style sheets, are text.
_BLANK: Final = re.compile(r"\{([^{}\s]*)\}")
_COMMON: Final = frozenset({"seller", "customer", "number", "total", "issued_on"})
PLACEHOLDERS: Final[Mapping[EmailKind, frozenset[str]]] = MappingProxyType(
    {
        EmailKind.INVOICE: _COMMON | {"amount_due", "due_on", "po_number"},
        EmailKind.CREDIT_NOTE: _COMMON | {"po_number"},
        EmailKind.RECEIPT: _COMMON | {"reference", "invoices"},
    }
)


class TemplateDraft(Body, frozen=True, kw_only=True):
    """`PUT /v1/email_templates/{kind}/{locale}`: blanks are names in braces.

    `html` is what stands in the body of the page; without it the text is shown.
    """

    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    html: Annotated[str, msgspec.Meta(min_length=1, max_length=100_000)] | None = None


class Template(Record, frozen=True, kw_only=True):
    """The words of one kind of mail in one language; `own` when the seller wrote them."""

    kind: EmailKind
    locale: str
    subject: str
    text: str
    html: str | None
    own: bool
    placeholders: tuple[str, ...]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A mail with its blanks filled in."""

    subject: str
    text: str
    html: str


def template_errors(draft: TemplateDraft, *, kind: EmailKind) -> list[FieldError]:
    """An error for each blank that this kind does not have, and for a subject of several lines."""
    errors: list[FieldError] = []
    known = PLACEHOLDERS[kind]
    for name in ("subject", "text", "html"):
        for blank in dict.fromkeys(_BLANK.findall(getattr(draft, name) or "")):
            if blank not in known:
                detail = f"{{{blank[:60]}}} is no blank of {kind.value}: {', '.join(sorted(known))}"
                pointer = f"/{name}"
                errors.append(
                    FieldError(pointer=pointer, code="unknown_placeholder", detail=detail)
                )
    if one_line(draft.subject) != draft.subject.strip():
        detail = "a subject is one line without control characters"
        errors.append(FieldError(pointer="/subject", code="invalid", detail=detail))
    return errors


def candidates(locale: str) -> tuple[str, ...]:
    """Under which locales the seller's own words are looked for, the nearest first."""
    spoken = choose_words(locale=locale).locale
    language = locale.partition("-")[0].lower()
    found = (locale.lower(), language, spoken if spoken != language else "")
    return tuple(dict.fromkeys(name for name in found if name))


def our_template(*, kind: EmailKind, locale: str) -> Template:
    """What we say when the seller says nothing."""
    words = choose_words(locale=locale)
    subject, text = MAIL_WORDS[words.locale][kind]
    return Template(
        kind=kind,
        locale=words.locale,
        subject=subject,
        text=text,
        html=None,
        own=False,
        placeholders=tuple(sorted(PLACEHOLDERS[kind])),
    )


def values_of(facts: MailFacts, *, seller: str, locale: str, timezone: str) -> dict[str, str]:
    """What fills the blanks, written as the locale does; empty where there is nothing to say."""
    frame = PaperFrame.of(
        currency=facts.currency, locale=locale, timezone=timezone, branding=Branding()
    )

    def money(minor: int) -> str:
        return frame.money(format_amount(minor, currency=facts.currency))

    due = facts.due_minor > 0 and facts.due_at is not None
    return {
        "seller": one_line(seller),
        "customer": one_line(facts.name),
        "number": facts.number,
        "total": money(facts.total_minor),
        "issued_on": frame.dates.date_of(facts.issued_at),
        "amount_due": money(facts.due_minor),
        "due_on": frame.dates.date_of(facts.due_at) if due and facts.due_at is not None else "",
        "po_number": one_line(facts.po_number or ""),
        "reference": one_line(facts.reference or ""),
        "invoices": ", ".join(facts.invoices),
    }


def subject_of(template: Template, *, values: Mapping[str, str]) -> str:
    """The subject with its blanks filled in, on one line."""
    return one_line(_filled(template.subject, values))[:SUBJECT_LENGTH]


def write_words(
    template: Template, *, values: Mapping[str, str], subject: str, locale: str
) -> Written:
    """The text and the page of a mail; values are only text in both."""
    text = "\n".join(_lines(template.text, values)).strip() + "\n"
    if template.html is None:
        body = _paragraphs(text)
    else:
        body = _filled(template.html, {name: html.escape(v) for name, v in values.items()})
    direction = "rtl" if choose_words(locale=locale).right_to_left else "ltr"
    page = (
        f'<!doctype html>\n<html lang="{html.escape(template.locale)}" dir="{direction}">\n'
        f'<head><meta charset="utf-8"><title>{html.escape(subject)}</title></head>\n'
        f'<body dir="{direction}">\n{body}\n</body>\n</html>\n'
    )
    return Written(subject=subject, text=text, html=page)


def _filled(text: str, values: Mapping[str, str]) -> str:
    # One pass: what a value holds is never looked at for blanks.
    return _BLANK.sub(lambda found: values.get(found[1], ""), text)


def _lines(text: str, values: Mapping[str, str]) -> Iterator[str]:
    for line in text.replace("\r\n", "\n").split("\n"):
        blanks = _BLANK.findall(line)
        if not blanks or any(values.get(blank) for blank in blanks):
            yield _filled(line, values).rstrip()


def _paragraphs(text: str) -> str:
    parts = re.split(r"\n{2,}", text.strip())
    return "\n".join(f"<p>{html.escape(part).replace(chr(10), '<br>')}</p>" for part in parts)
