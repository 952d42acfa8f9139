"""What the audit holds is written down, check by check."""

from engine.audit import CHECKS
from tests.tidy.tree import ROOT


def test_every_invariant_is_told() -> None:
    told = (ROOT / "docs" / "domain" / "audit.md").read_text(encoding="utf-8")
    rows = [f"| `{check.name}` | {check.sentence} |" for check in CHECKS]
    assert [row for row in rows if row not in told] == []
    assert told.count("| `") == len(rows)
