"""Instants and days as a document tells them: the month by name, in the seller's timezone."""

from datetime import date, datetime, timedelta
from typing import Final

import msgspec
from babel.dates import format_date, format_skeleton

from engine.period import local_date, local_midnight, zone

ENGLISH_DAY: Final = "d MMM y"


class PaperDates(msgspec.Struct, frozen=True, kw_only=True):
    """`locale` is one whose month names go with the words around them."""

    timezone: str
    locale: str

    def day(self, on: date) -> str:
        """1 Feb 2026: a month by name cannot be taken for a day."""
        if self.locale.partition("_")[0] == "en":
            return format_date(on, ENGLISH_DAY, locale=self.locale)
        return format_skeleton("yMMMd", on, locale=self.locale)

    def date_of(self, at: datetime) -> str:
        """The local day of an instant."""
        return self.day(local_date(at=at, timezone=self.timezone))

    def instant(self, at: datetime) -> str:
        """Local date and time; with its offset where the clock shows that hour twice."""
        local = at.astimezone(zone(self.timezone))
        precision = "microseconds" if local.microsecond else "seconds" if local.second else ""
        clock = local.time().isoformat(timespec=precision or "minutes")
        twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        return f"{self.day(local.date())} {clock}{local.strftime(' %z') if twice else ''}"

    def period(self, period: tuple[datetime, datetime]) -> tuple[str, ...]:
        """Whole local days as first and last day, anything else as two instants.

        What happens at once, such as a setup, is told by its day.
        """
        start, end = period
        first, after = (local_date(at=at, timezone=self.timezone) for at in period)
        if start >= end:
            return (self.day(first),)
        midnights = all(
            local_midnight(on=on, timezone=self.timezone) == at
            for on, at in ((first, start), (after, end))
        )
        if not midnights:
            return f"{self.instant(start)} –", self.instant(end)
        last = after - timedelta(days=1)
        if first >= last:
            return (self.day(first),)
        return f"{self.day(first)} –", self.day(last)
