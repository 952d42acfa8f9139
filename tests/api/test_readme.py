"""The README's tour, run as it is printed against a real server."""

import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.api.command_line import USANCE, create_seller, environment
from tests.processes import ROOT, SECONDS, Program, free_ports, program, wait_until

BLOCK = re.compile(r"<!-- tested -->\n```bash\n(.*?)```", re.DOTALL)
FIELD = re.compile(r'"(\w+)":("[^"]*"|\d+)')


@contextlib.contextmanager
def serving(*, database_url: str, home: Path) -> Iterator[tuple[str, Program]]:
    """`usance serve` until it answers; gives its address and the process."""
    (port,) = free_ports(1)
    variables = environment(database_url=database_url, home=home)
    with program([*USANCE, "serve", "--port", str(port)], env=variables) as server:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(address, server))
        yield address, server


def is_ready(address: str, server: Program) -> bool:
    server.require_running()
    with contextlib.suppress(OSError), urlopen(f"{address}/readyz", timeout=SECONDS):
        return True
    return False


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
            timeout=SECONDS,
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
        assert server.wait() == 0, server.told()
