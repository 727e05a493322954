"""The command `speechgpt-gen`."""

from __future__ import annotations

import importlib
import sys

import typer

COMMANDS = ("serve", "offline", "train", "bench")
"""Modules of this package; each adds its commands by `register(app)`."""


def make_app() -> typer.Typer:
    """The command line with every command that is installed."""
    app = typer.Typer(
        name="speechgpt-gen",
        help="Speech in, speech out: a real-time spoken dialogue agent.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        name = f"{__name__}.{command}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue  # an installation without this part
        module.register(app)
    return app


def main() -> None:
    """Run the command line."""
    try:
        make_app()()
    except KeyboardInterrupt:
        sys.exit(130)
