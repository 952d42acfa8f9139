"""How much of a billing run is taken at once, and how far it is. Pure."""

from typing import Final

import msgspec

FIRST: Final = 16_000
MOST: Final = 60_000
SEGMENT: Final = 20_000
CHUNK: Final = 5_000
OPENING: Final = 1_000
EXPECTED: Final = 1_000_000
FEW: Final = 4
"""Terms that fewer subscriptions share on average are quicker derived one by one."""


class Portions(msgspec.Struct, frozen=True, kw_only=True):
    """How many customers are derived together, and how many are posted in one transaction.

    Where many have the same terms `first` at once, then twice as many each time, up to `most`:
    posting begins early. Usage is not read anew for each portion: that of `expected` customers from
    the first on is measured at once, and then of as many again. `segment` of those that are derived
    one by one; `few` sharing the same terms are derived one by one. With `ahead` a portion is
    derived, and the next chunks' lines and entries copied, while the one before is posted.
    Whatever begins where nothing due lies before it opens with a chunk of no more than `opening`:
    nothing is posted while that is copied.
    """

    first: int = FIRST
    most: int = MOST
    segment: int = SEGMENT
    chunk: int = CHUNK
    opening: int = OPENING
    expected: int = EXPECTED
    few: int = FEW
    ahead: bool = True


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run has come; `together` are those of the customers that were derived at once.

    `done` of `total` customers, in all of the run: a customer with several due instants counts
    once for each, found as the run gets there. `total` is None before they are counted.
    """

    run: str
    done: int
    total: int | None
    customers: int
    together: int
    documents: int
    lines: int
    parked: int
