"""A second process on a home, and looks at the server that runs in it."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg

from engine.postgres_cluster import postmaster_lives, read_pid_file

PROJECT = Path(__file__).parents[2]


# Another process that shares a home: one line out for each line in, and the end at end of input.
SHARER = """
import asyncio, asyncpg, concurrent.futures.thread, json, os, sys
from pathlib import Path
from engine.postgres import start_or_join
import encodings.ascii, encodings.idna  # what the interpreter would load too late
home, uid = Path(sys.argv[1]), int(sys.argv[2])
if uid != os.geteuid():
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
with start_or_join(home=home, throw_away=True) as running:
    while True:
        server = running.server
        print(json.dumps([server.owned, str(server.bin_dir), server.admin_dsn]), flush=True)
        if not sys.stdin.readline():
            break
        running.ensure_running()
"""


class Sharer:
    """A second process on the same home."""

    def __init__(self, home, *, uid=None, first_path=PROJECT):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHARER, str(home), str(os.geteuid() if uid is None else uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": f"{first_path}:{PROJECT}"},
        )

    def told(self):
        owned, bin_dir, admin_dsn = json.loads(self.process.stdout.readline())
        return owned, Path(bin_dir), admin_dsn

    def ask(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.told()

    def leave(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait(timeout=30)
        self.process.stdout.close()
        return status


def query(dsn, sql):
    async def fetch():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def data_of(home):
    return home / "postgres" / "data"


def pid_of(home):
    return read_pid_file(data=data_of(home)).pid


def is_alive(home, pid):
    return postmaster_lives(pid=pid, data=data_of(home))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)
