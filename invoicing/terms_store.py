"""SQL that tells price intervals of the same terms: what is hashed of them, wherever it is."""

from typing import Final

INSTANT: Final = "date_part('epoch', {})"
"""An instant as it is hashed: the hash of a record takes of it only 32 bits, of a float all."""

SELDOM: Final = f"""{INSTANT.format("i.end_at")}, i.end_is_cancellation, i.credit_unused,
      {INSTANT.format("i.agreed_end_at")}, {INSTANT.format("i.closed_at")}, i.start_is_due,
      {INSTANT.format("i.anchor_at")}, i.anchor_day, i.alignment"""
"""What of a price interval `i` most leave as it is."""

INTERVAL: Final = f"""hash_record_extended(ROW(i.number, i.price, i.quantity,
      {INSTANT.format("i.start_at")}, {SELDOM}), {{seed}})"""
"""All of a price interval `i` that decides a charge, to be formatted with a `seed`."""
