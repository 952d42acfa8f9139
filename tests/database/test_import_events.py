"""A file of lines through the intake: in batches, each refused line told by its own number."""

import json

from api.importing import LONGEST_LINE_BYTES, read_rows
from api.send_rows import BATCH, send_rows
from tests.database.test_ingest_http import EVENT, served


def line(id: str, **fields: object) -> bytes:
    return json.dumps(EVENT | {"id": id} | fields).encode()


async def test_lines_go_in_as_they_are_and_each_refusal_names_its_line(database, tmp_path):
    lines = [line(f"n{number}") for number in range(3 * BATCH)]
    wrong = {
        2: (b'{"id": "torn"', "invalid: "),
        5: (line("x") + b" " + line("y"), "invalid: "),
        BATCH: (line("old", time="2020-01-01T00:00:00Z"), "too_old: "),
        BATCH + 1: (b"\xff" + line("z"), "is not UTF-8 text"),
        2 * BATCH + 7: (line("n0", data={"tokens": 2}), "conflict: "),
        2 * BATCH + 8: (b"[" * 5_000, "invalid: "),
        3 * BATCH - 1: (line("long", pad="x" * LONGEST_LINE_BYTES), "is longer than "),
    }
    for place, (content, _) in wrong.items():
        lines[place] = content
    lines.insert(1, b"  ")
    file = tmp_path / "usage.ndjson"
    file.write_bytes(b"\r\n".join(lines))
    async with served(database) as client:
        for accepted in (3 * BATCH - len(wrong), 0):
            refused, told = [], []
            sent = await send_rows(
                client=client,
                rows=read_rows(path=file, kind="events", as_lines=True),
                kind="events",
                report=lambda sent, told=told: told.append(sent.rows),
                refuse=refused.append,
            )
            assert (sent.accepted, sent.rows) == (accepted, 3 * BATCH)
            by_number = {each.row.number - 2: each.reason for each in refused}
            assert sorted(by_number) == sorted(wrong)
            assert all(by_number[at].startswith(why) for at, (_, why) in wrong.items())
            assert told == sorted(told)
            assert told[-1] == 3 * BATCH
