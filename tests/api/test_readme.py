"""The README's tour, run as it is printed against a real server."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.api.command_line import ROOT, USANCE, create_seller, environment

BLOCK = re.compile(r"<!-- tested -->\n```bash\n(.*?)```", re.DOTALL)
FIELD = re.compile(r'"(\w+)":("[^"]*"|\d+)')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(*, database_url: str, home: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`usance serve` until it answers; gives its address and the process."""
    port = free_port()
    server = subprocess.Popen(
        [*USANCE, "serve", "--port", str(port)],
        env=environment(database_url=database_url, home=home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, server)
        yield address, server
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()


def wait_until_ready(address: str, server: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(URLError, ConnectionError), urlopen(f"{address}/readyz"):
            return
        time.sleep(0.05)
    server.kill()
    pytest.fail(f"the server did not answer: {server.communicate()[0]}")


def test_the_tour_works_as_printed(database_url: str, tmp_path: Path) -> None:
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("the tour needs bash and curl")
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) == 5
    _, key = create_seller(database_url=database_url, home=tmp_path)
    with serving(database_url=database_url, home=tmp_path) as (address, server):
        toured = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            cwd=tmp_path,
            env=environment(database_url=database_url, home=tmp_path)
            | {"USANCE_URL": address, "USANCE_KEY": key},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert toured.returncode == 0, toured.stdout + toured.stderr
        said = toured.stdout
        assert '{"accepted":2,"duplicates":0,"rejected":[]}' in said
        assert '{"accepted":0,"duplicates":1,"rejected":[]}' in said
        invoices = next(line for line in said.splitlines() if '"INV-000002"' in line)
        totals = [value for name, value in FIELD.findall(invoices) if name == "total"]
        assert totals == ['"49.00"', '"59.00"']
        assert '"documents":0' in said
        assert '"108.00"' in said.splitlines()[-1]
        assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF-")
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
