from pathlib import Path

import pytest

from engine.settings import ROOT_HOME, SettingError, load_settings, without_password

USER_DATA = Path("/people/someone/.local/share")


def load(*, is_root=False, **environ):
    return load_settings(environ=environ, is_root=is_root, user_data=USER_DATA)


def test_nothing_set_means_the_embedded_server_on_loopback():
    settings = load()
    assert settings.database_url is None
    assert settings.home == USER_DATA / "usance"
    assert (settings.host, settings.port, settings.log_level) == ("127.0.0.1", 8400, "info")
    assert load(USANCE_PORT="", USANCE_HOME="", USANCE_DATABASE_URL="") == settings


@pytest.mark.parametrize(
    ("is_root", "environ", "home"),
    [
        (False, {"XDG_DATA_HOME": "/data"}, "/data/usance"),
        (False, {"XDG_DATA_HOME": "data"}, "/people/someone/.local/share/usance"),
        (True, {"XDG_DATA_HOME": "/data"}, str(ROOT_HOME)),
        (True, {"USANCE_HOME": "/srv/usance"}, "/srv/usance"),
        (False, {"USANCE_HOME": "/srv/usance", "XDG_DATA_HOME": "/data"}, "/srv/usance"),
    ],
)
def test_home(is_root, environ, home):
    assert load(is_root=is_root, **environ).home == Path(home)


def test_every_variable_reaches_its_field():
    settings = load(
        USANCE_DATABASE_URL="postgresql+asyncpg://u:p@db.example:5433/billing?sslmode=require",
        USANCE_CLICKHOUSE_URL="https://u:p@events.example:8443/usance",
        USANCE_POSTGRES_BIN="/opt/pg/bin",
        PATH="/usr/bin",
        USANCE_HOST="::1",
        USANCE_PORT="9000",
        USANCE_LOG_LEVEL="DEBUG",
        USANCE_POOL_MAX_SIZE="4",
        USANCE_STATEMENT_TIMEOUT_SECONDS="5",
        USANCE_DRAIN_TIMEOUT_SECONDS="6",
        USANCE_WAIT_SECONDS="7",
    )
    assert settings.database_url == "postgresql://u:p@db.example:5433/billing?sslmode=require"
    assert settings.clickhouse_url == "https://u:p@events.example:8443/usance"
    assert (settings.postgres_bin, settings.search_path) == (Path("/opt/pg/bin"), "/usr/bin")
    assert (settings.host, settings.port, settings.log_level) == ("::1", 9000, "debug")
    assert settings.pool_max_size == 4
    assert (settings.statement_timeout_seconds, settings.drain_timeout_seconds) == (5, 6)
    assert (settings.wait_seconds, load().wait_seconds) == (7, 0)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///billing?host=/run/postgresql",
        "postgresql://u:p@/billing?host=/run/pg&port=5433",
        "postgresql://u:p@one:5432,two:5432/billing",
    ],
)
def test_addresses_of_sockets_and_of_several_hosts_stay_as_they_are(url):
    assert load(USANCE_DATABASE_URL=url).database_url == url


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("USANCE_HOME", "relative/home"),
        ("USANCE_HOME", "~/usance"),
        ("USANCE_POSTGRES_BIN", "bin"),
        ("USANCE_PORT", "0"),
        ("USANCE_PORT", "65536"),
        ("USANCE_PORT", "-1"),
        ("USANCE_PORT", "8,400"),
        ("USANCE_PORT", "٣"),
        ("USANCE_LOG_LEVEL", "loud"),
        ("USANCE_POOL_MAX_SIZE", "many"),
        ("USANCE_DRAIN_TIMEOUT_SECONDS", "1e6"),
        ("USANCE_DATABASE_URL", "mysql://u:hunter2@db.example/billing"),
        ("USANCE_DATABASE_URL", "postgresql://u:hunter2@db.example"),
        ("USANCE_DATABASE_URL", "postgresql://u:hunter2@db.example:port/billing"),
        ("USANCE_DATABASE_URL", "hunter2"),
        ("USANCE_NATS_URL", "http://u:hunter2@nats.example"),
        ("USANCE_NATS_URL", "nats://one.example,hunter2"),
        ("USANCE_NATS_URL", "nats://u:hunter2@one.example:port"),
        ("USANCE_NATS_CREDENTIALS", "usance.creds"),
        ("USANCE_NATS_STREAM", "a.b"),
        ("USANCE_NATS_STREAM", "usance events"),
        ("USANCE_NATS_PREFIX", "usance.*"),
        ("USANCE_NATS_PREFIX", "usance."),
        ("USANCE_CLICKHOUSE_URL", "clickhouse://u:hunter2@events.example/usance"),
        ("USANCE_CLICKHOUSE_URL", "https://u:hunter2@events.example"),
        ("USANCE_CLICKHOUSE_URL", "https://u:hunter2@events.example/Usance;"),
        ("USANCE_CLICKHOUSE_URL", "https://u:hunter2@events.example:port/usance"),
        ("USANCE_CLICKHOUSE_URL", "hunter2"),
    ],
)
def test_an_error_names_the_variable_and_no_password(variable, value):
    with pytest.raises(SettingError) as caught:
        load(**{variable: value})
    assert caught.value.variable == variable
    assert caught.value.detail.startswith(variable)
    assert "hunter2" not in str(caught.value)


def test_a_password_is_never_shown():
    url = "postgresql://u:hunter2@db.example/billing"
    events = "https://u:hunter2@events.example/usance"
    settings = load(USANCE_DATABASE_URL=url, USANCE_CLICKHOUSE_URL=events)
    assert "hunter2" not in repr(settings) + str(settings)
    assert "db.example" in repr(settings)
    assert without_password(dsn="postgresql://u@db.example/b") == "postgresql://u@db.example/b"
    assert without_password(dsn=url) == "postgresql://u:***@db.example/billing"


def test_nodes_of_nats_are_told_apart_by_commas():
    settings = load(
        USANCE_NATS_URL="nats://u:hunter2@one.example:4222, tls://two.example",
        USANCE_NATS_PREFIX="eu1.usance",
    )
    assert settings.nats_urls == ("nats://u:hunter2@one.example:4222", "tls://two.example")
    assert (settings.nats_stream, settings.nats_prefix) == ("USAGE_EVENTS", "eu1.usance")
    assert settings.nats_credentials is None
    assert "hunter2" not in repr(settings)
    assert load().nats_urls == ()
