"""The command `speechgpt-gen`."""

from __future__ import annotations

import sys

import typer

from . import bench, chat, evaluate, offline, serve, train


def make_app() -> typer.Typer:
    """The command line with every command that is installed."""
    app = typer.Typer(
        name="speechgpt-gen",
        help="Speech in, speech out: a real-time spoken dialogue agent.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (serve, chat, offline, train, evaluate, bench):
        module.register(app)
    return app


def main() -> None:
    """Run the command line."""
    try:
        make_app()()
    except KeyboardInterrupt:
        sys.exit(130)
