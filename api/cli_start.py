"""What the commands share: settings from the environment, a runtime, sentences for failures."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import rich_click as click
from click.exceptions import Exit

if TYPE_CHECKING:
    from rich.console import Console

    from api.runtime import Runtime
    from engine.settings import Settings

Answer = TypeVar("Answer")

FAILED = 1
"""What was asked for was looked at, and does not hold."""
UNUSABLE = 2
"""What was asked for cannot be done: a wrong option, a malformed file, no database."""


class Commands(click.RichGroup):
    """Commands whose expected failures are sentences on stderr, not tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a BillingError becomes its sentence and exit code 2."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, Exit, BrokenPipeError):
            raise
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            refuse(sentence)


def _sentence(error: Exception) -> str | None:
    from engine.errors import BillingError

    if isinstance(error, BillingError):
        fields = "".join(f"\n  {field.pointer}: {field.detail}" for field in error.errors)
        return error.detail + fields
    if isinstance(error, TimeoutError):
        return "The database did not answer in time."
    # SQLAlchemy wraps what the driver says.
    cause = getattr(error, "orig", None) or error
    cause = cause.__cause__ or cause
    if type(cause).__module__.startswith("asyncpg") or isinstance(cause, OSError):
        return f"The database cannot be used: {cause}"
    return None


def refuse(sentence: str) -> NoReturn:
    """End with a sentence and exit code 2."""
    click.echo(f"usance: {sentence}", err=True)
    sys.exit(UNUSABLE)


def settings_from_environment() -> "Settings":
    """The settings; a variable that cannot be used raises SettingError."""
    from engine.settings import load_settings

    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    user_data = Path.home() / ".local" / "share"
    return load_settings(environ=os.environ, is_root=is_root, user_data=user_data)


@contextlib.contextmanager
def started(*, ready: bool = True, settings: "Settings | None" = None) -> Iterator["Runtime"]:
    """The runtime of the environment's settings, its database ready unless `ready` is False."""
    from api.runtime import make_ready, runtime

    with runtime(settings=settings or settings_from_environment()) as running:
        if ready:
            run_async(lambda: make_ready(started=running))
        yield running


def run_async(work: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Run the coroutine that `work` gives, on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def console(*, err: bool = False) -> "Console":
    """A console that prints values as they are: no markup, no highlighting."""
    from rich.console import Console

    return Console(stderr=err, highlight=False, emoji=False, markup=False)
