"""How a command fails: one line on standard error and exit code 2, never a traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from ...models.errors import SpeechGPTGenError

P = ParamSpec("P")
R = TypeVar("R")

USER_ERROR = 2


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: a `SpeechGPTGenError` becomes one line on stderr and exit code 2."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SpeechGPTGenError as error:
            typer.echo(f"speechgpt-gen: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(USER_ERROR) from None
        except BrokenPipeError:
            # Whoever read our output has enough. Python would complain once more when it flushes stdout at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    return guarded
