"""A second process on a home, and looks at the server that runs in it."""

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg

from engine.postgres_cluster import postmaster_lives, read_pid_file
from tests.processes import ROOT, SECONDS

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

    def __init__(self, home, *, uid=None, first_path=ROOT):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHARER, str(home), str(os.geteuid() if uid is None else uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{first_path}:{ROOT}"},
        )

    def told(self):
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait(SECONDS)}"
        owned, bin_dir, admin_dsn = json.loads(line)
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
        try:
            return self.process.wait(timeout=SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


def query(dsn, sql):
    async def fetch():
        connection = await asyncpg.connect(dsn, timeout=SECONDS)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(fetch())


def data_of(home):
    return home / "postgres" / "data"


def pid_of(home):
    return read_pid_file(data=data_of(home)).pid


def is_alive(home, pid):
    return postmaster_lives(pid=pid, data=data_of(home))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)
