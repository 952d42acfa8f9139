"""Derived ids of many documents at once, as columns: what `engine.ids` gives one by one."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.ids import ALPHABET, BODY_LENGTH, ORDINAL_MAX

_LETTERS: Final = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
_TAIL: Final = 4
"""So many last characters hold four bits of the document and the sixteen of the ordinal."""
_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]


class IdColumns:
    """The ids of n documents and of their parts."""

    def __init__(self, *, bodies: bytes) -> None:
        """`bodies` are the documents' 128 bits one after the other, from `derived_bodies`."""
        high, low = np.frombuffer(bodies, dtype=">u8").astype(np.uint64).reshape(-1, 2).T
        heads = np.empty((len(high), BODY_LENGTH - _TAIL), dtype=np.uint8)
        for place in range(heads.shape[1]):
            shift = 5 * (BODY_LENGTH - 1 - place)
            if shift >= 64:
                bits = high >> np.uint64(shift - 64)
            else:
                bits = low >> np.uint64(shift)
                if shift:
                    bits = bits | (high << np.uint64(64 - shift))
            heads[:, place] = _LETTERS[(bits & np.uint64(31)).astype(np.intp)]
        self.in_order = np.lexsort((low, high))
        """The documents by id."""
        self._heads = heads
        self._tails = (low & np.uint64(0xFFFFF)).astype(np.int64)

    def find(
        self,
        prefix: str,
        *,
        of: NDArray[np.integer] | None = None,
        ordinal: NDArray[np.integer] | int = 0,
    ) -> _Bytes:
        """Ids of shape (m, width): of the documents at `of` (all), and their parts `ordinal`."""
        heads = self._heads if of is None else self._heads[of]
        tails = (self._tails if of is None else self._tails[of]) + ordinal
        assert int(np.max(ordinal, initial=0)) <= ORDINAL_MAX, "documents of more parts are refused"
        begin = np.frombuffer(f"{prefix}_".encode(), dtype=np.uint8)
        found = np.empty((len(heads), len(begin) + BODY_LENGTH), dtype=np.uint8)
        found[:, : len(begin)] = begin
        found[:, len(begin) : -_TAIL] = heads
        for place in range(_TAIL):
            found[:, len(begin) + heads.shape[1] + place] = _LETTERS[
                (tails >> 5 * (_TAIL - 1 - place)) & 31
            ]
        return found
