"""`speechgpt-gen bench engine|flow|first-audio|sessions` of the batched engine: what is asked, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ...models.errors import ConfigError


def on_gpu(device: str) -> bool:
    """Whether a device name means a GPU."""
    import torch

    return torch.cuda.is_available() if device == "auto" else not device.startswith("cpu")


def print_figures(
    bench: str,
    model: str,
    device: str,
    precision: str | None,
    *,
    slots: int,
    context: int,
    peer: str | None = None,
    kv_cache: str | None = None,
    json_: bool = False,
    plot: Path | None = None,
) -> None:
    """Measure and print. plot: draw what was measured of sessions to this file. Raises SpeechGPTGenError for what
    cannot be measured."""
    from ...streaming.bench.common import Subject
    from ...streaming.bench.plot import sessions_plot
    from ...streaming.bench.run import measure
    from ...streaming.bench.talk import IN_TIME_MS

    if peer not in (None, "transformers"):
        raise ConfigError(f"peer {peer!r} is unknown: only transformers can be measured beside the engine")
    if kv_cache not in (None, "fp8"):
        raise ConfigError(f"kv-cache {kv_cache!r} is unknown: fp8, or leave it out to keep the weights' precision")
    if plot is not None and (plot.is_dir() or not plot.absolute().parent.is_dir()):
        raise ConfigError(f"--plot {plot}: give the name of a file in a folder that exists")
    place = ("cuda" if on_gpu(device) else "cpu") if device == "auto" else device
    subject = Subject(model, place, precision, slots, context, kv_cache="fp8" if kv_cache else None)
    figures, _ = measure(bench, subject, peer)
    if plot is not None:
        plot.write_text(sessions_plot({figures["precision"]: figures["rows"]}, IN_TIME_MS), encoding="utf-8")
    if json_:
        typer.echo(json.dumps(figures))
        return
    table = Table("figure", "value", title=f"{bench} of {figures['model']} in {figures['precision']} on {place}")
    for name, value in _flat(figures):
        table.add_row(name, str(value))
    Console().print(table)


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, each in enumerate(value):
                rows += _flat(each, f"{prefix}{name}[{number}].")
        else:
            rows.append((prefix + name, value))
    return rows
