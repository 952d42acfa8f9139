"""What every test gets: no way out of this machine. Warnings are errors by pyproject."""

import contextlib
import ipaddress
import sys

import pytest
from hypothesis import HealthCheck, settings

from tests.memory_disk import files_in_memory

pytest_plugins = ["tests.fixtures_database"]

LOCAL_NAMES = frozenset({"", "localhost", "localhost.localdomain"})


def stays_here(host: object) -> bool:
    """True for a loopback or unspecified address, its common names, and no host at all."""
    if host is None:
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    if text in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a connection or a look-up that leaves loopback fails its test."""
    if event in {"socket.connect", "socket.sendto"}:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = arguments[0]
    else:
        return
    if not stays_here(host):
        pytest.fail(f"{event}: tests stay on this machine, this one asked for {host!r}")


# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(refuse_the_network)
    if not hasattr(config, "workerinput"):  # the workers of xdist inherit the place
        inside = contextlib.ExitStack()
        inside.enter_context(files_in_memory())
        config.add_cleanup(inside.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first, so that no worker begins one when the others end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
