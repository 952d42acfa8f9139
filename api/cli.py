"""The command `usance`: each command lives in a `cli_…` module and imports what it needs late."""

import rich_click as click

from api.cli_admin import doctor, fold, key, migrate, seller
from api.cli_audit import audit
from api.cli_backtest import backtest
from api.cli_check import check
from api.cli_consume import consume
from api.cli_demo import demo
from api.cli_export import export
from api.cli_import import import_
from api.cli_run import run
from api.cli_runs import runs
from api.cli_serve import serve
from api.cli_start import Commands


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Without USANCE_DATABASE_URL a PostgreSQL of its own is started under USANCE_HOME. "
        "Exit codes: 0 all is well, 1 something does not hold, 2 it could not be done."
    ),
)
@click.version_option(package_name="usance", prog_name="usance")
def main() -> None:
    """Usance bills usage: events in, journaled invoices out, exact to the cent."""


for _command in (
    demo,
    serve,
    consume,
    run,
    runs,
    import_,
    export,
    check,
    audit,
    backtest,
    fold,
    seller,
    key,
    migrate,
    doctor,
):
    main.add_command(_command)
