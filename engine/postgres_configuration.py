"""The settings the embedded server is started with."""

import os
from pathlib import Path

from engine.postgres_files import PORT


def server_settings(*, memory_bytes: int, lz4: bool, private_socket: bool) -> dict[str, str]:
    """The server's settings for a machine with this much memory; a commit waits for the disk."""
    megabytes = memory_bytes >> 20
    return {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_permissions": "0700" if private_socket else "0777",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "restart_after_crash": "on",
        "max_connections": "60",
        # What a large seller's run comes back to day after day stays here.
        "shared_buffers": f"{max(32, min(4096, megabytes // 4))}MB",
        "effective_cache_size": f"{max(64, megabytes // 2)}MB",
        "work_mem": f"{max(4, min(64, megabytes // 128))}MB",
        "maintenance_work_mem": f"{max(32, min(512, megabytes // 16))}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "lz4" if lz4 else "off",
        "client_connection_check_interval": "1s",
        "random_page_cost": "1.1",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # Rows and parameters are customers' data: the log gets neither.
        "log_min_messages": "warning",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_lock_waits": "on",
        # One file a weekday, the same names every week.
        "logging_collector": "on",
        "log_directory": "log",
        "log_filename": "postgres-%a.log",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
    }


def memory_available() -> int:
    """Bytes of memory of the machine, or the container's share of them."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        share = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return machine
    return min(machine, int(share)) if share.isdigit() else machine
