"""A run's report: JSON with every figure, the items as JSON lines, tables as Markdown, and one HTML page with all of
it, its plots and a few sounds, which needs nothing beside it."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..audio import SAMPLE_RATE
from .figures import Figure
from .judges import load
from .published import TABLES

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}
td+td,th+th{text-align:right}.ours{font-weight:600}.below{color:#a33}.floor{color:#860}.aim{color:#170}img{max-width:100%}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}img{background:#fff}}"""

Sounds = dict[str, NDArray[np.float32]]


def number(value: float | None, unit: str = "") -> str:
    """A figure as people read it; a dash for none."""
    if value is None:
        return "-"
    digits = 1 if unit == "%" else 3 if abs(value) < 10 and unit == "" else 2
    return f"{value:.{digits}f}{f' {unit}' if unit else ''}"


def cells(figure: Figure) -> tuple[str, ...]:
    """One row of the table of figures: task, measure, value, interval, items, floor / aim, reached."""
    spread = "" if figure.low is None else f"{number(figure.low)} - {number(figure.high)}"
    if figure.unit == "%" and figure.low is not None and figure.high is not None:
        spread = f"{figure.low:.1f} - {figure.high:.1f}"
    goal = "" if figure.floor is None else f"{figure.floor:g}{'' if figure.aim is None else f' / {figure.aim:g}'}"
    value = number(figure.value, figure.unit)
    return figure.task, figure.measure, value, spread, str(figure.items or ""), goal, figure.verdict


HEADER = ("task", "measure", "value", "95 % interval", "items", "floor / aim", "reached")


def markdown(figures: list[Figure], about: dict[str, Any]) -> str:
    """All tables as Markdown."""
    lines = [f"# {about['model']}", "", *(f"- {k}: {_plain(v)}" for k, v in about.items() if k != "model"), ""]
    lines += [_row(HEADER), _row(["---"] * len(HEADER)), *(_row(cells(f)) for f in figures)]
    for table in TABLES:
        if any(f.task == table.task for f in figures):
            lines += ["", f"## {table.title}", "", _row(("", *table.columns)), _row(["---"] * (1 + len(table.columns)))]
            lines += [
                _row((name, *map(number, row))) for name, row in table.with_ours(f"ours: {about['model']}", figures)
            ]
            lines += ["", f"Scales: {table.scales}. Ours: {_plain(about['judges'])}; {about['material']}."]
    return "\n".join(lines) + "\n"


def write(
    folder: Path, figures: list[Figure], records: list[dict[str, Any]], about: dict[str, Any], sounds: Sounds
) -> None:
    """Write report.json, items.jsonl, report.md, report.html and plots as PNG into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {**about, "figures": [f.to_json() for f in figures]}
    (folder / "report.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = (json.dumps(record, ensure_ascii=False, default=str) for record in records)
    (folder / "items.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "report.md").write_text(markdown(figures, about), encoding="utf-8")
    plots = draw(figures)
    for name, png in plots.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(_page(figures, about, plots, sounds), encoding="utf-8")


def draw(figures: list[Figure]) -> dict[str, bytes]:
    """Plots as PNG by name: goals (every figure with a floor, as far as it is from it) and levels of the tokenizer."""
    load("matplotlib").use("Agg")
    pyplot = load("matplotlib.pyplot")
    made = {}
    goals = [f for f in figures if f.floor and f.value is not None]
    if goals:
        figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(goals) + 1.2), layout="constrained")
        # To the right is better for every bar: errors are shown as floor over value, scores as value over floor.
        ratios = [
            min(
                3.0, (f.floor or 0) / max(f.value or 0, 1e-9) if f.better == "less" else (f.value or 0) / (f.floor or 1)
            )
            for f in goals
        ]
        colours = {"aim": "#2a7", "floor": "#ca3", "below": "#c55"}
        axes.barh([f"{f.task}: {f.measure}" for f in goals], ratios, color=[colours[f.verdict] for f in goals])
        axes.axvline(1.0, color="black", linewidth=1)
        axes.set_xlabel("share of the floor reached (1 is the floor; longer is better, cut at 3)")
        axes.invert_yaxis()
        made["goals"] = _png(figure)
    levels = [f for f in figures if f.task == "tokenizer" and f.measure.startswith("WER") and f.value is not None]
    if levels:
        figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
        values = [f.value or 0.0 for f in levels]
        spread = [[v - (f.low or v) for v, f in zip(values, levels, strict=True)],
                  [(f.high or v) - v for v, f in zip(values, levels, strict=True)]]  # fmt: skip
        axes.bar([f.measure.removeprefix("WER, ") for f in levels], values, yerr=np.maximum(spread, 0), color="#68a")
        axes.set_ylabel("WER %")
        made["levels"] = _png(figure)
    pyplot.close("all")
    return made


def _of_floor(f: Figure) -> float:
    """How much of its floor a figure reaches, more being better whichever way it counts."""
    value, floor = f.value or 0.0, f.floor or 1.0
    return floor / max(value, 1e-9) if f.better == "less" else value / floor


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _page(figures: list[Figure], about: dict[str, Any], plots: dict[str, bytes], sounds: Sounds) -> str:
    e = html.escape
    parts = [f"<h1>{e(str(about['model']))}</h1><p>"]
    parts += [f"{e(k)}: {e(_plain(v))}<br>" for k, v in about.items() if k != "model"]
    rows = ["".join(f"<th>{e(h)}</th>" for h in HEADER)]
    rows += ["".join(f'<td class="{f.verdict}">{e(cell)}</td>' for cell in cells(f)) for f in figures]
    parts.append(f"</p>{_html_table(rows)}")
    parts += [f'<img alt="{e(name)}" src="data:image/png;base64,{_base64(png)}">' for name, png in plots.items()]
    for table in TABLES:
        if any(f.task == table.task for f in figures):
            rows = ["".join(f"<th>{e(c)}</th>" for c in ("", *table.columns))]
            made = table.with_ours(f"ours: {about['model']}", figures)
            rows += ["".join(f"<td>{e(c)}</td>" for c in (name, *map(number, row))) for name, row in made]
            parts.append(f"<h2>{e(table.title)}</h2>{_html_table(rows)}<p>Scales: {e(table.scales)}.</p>")
    if sounds:
        parts.append("<h2>Sounds</h2>")
    for name, pcm in sounds.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, pcm, SAMPLE_RATE, format="OGG", subtype="OPUS")
        source = f"data:audio/ogg;base64,{_base64(buffer.getvalue())}"
        parts.append(f'<p>{e(name)}<br><audio controls preload="none" src="{source}"></audio></p>')
    title = f"<title>{e(str(about['model']))}</title><style>{_STYLE}</style>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8">{title}{"".join(parts)}</html>\n'


def _html_table(rows: list[str]) -> str:
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _row(values: Any) -> str:
    return "| " + " | ".join(map(str, values)) + " |"


def _plain(value: Any) -> str:
    return "; ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
