"""The page of the ablation: what slices wrote to `ablation.jsonl`, as tables and a plot."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import ConfigError
from .judges import load

Line = dict[str, Any]


def read_lines(folders: Iterable[Path]) -> list[Line]:
    """Lines of every `ablation.jsonl` in or below the folders, each measurement once. Raises ConfigError for none."""
    folders = list(folders)
    found = {
        (line["variant"], line["step"], line["nfe"]): line
        for folder in folders
        for path in sorted(folder.rglob("ablation.jsonl"))
        for line in map(json.loads, path.read_text().splitlines())
    }
    if not found:
        raise ConfigError(f"no ablation.jsonl in {', '.join(map(str, folders))}: run the ablation slices first")
    return list(found.values())


def page(lines: Sequence[Line], picture: str) -> str:
    """Markdown with one table by evaluations (trained to the end) and one by steps (8 evaluations); percent, mean over
    seeds, and the lowest and highest seed where there are several."""
    last = max(line["step"] for line in lines)
    text = [
        "# Chain and prior, all else alike",
        "",
        "Character error rate, in percent, of held-out utterances spoken again from their units and read by the units'",
        "own reader. Mean over seeds (lowest - highest).",
        "",
        f"![{picture}]({picture})",
        "",
        f"By evaluations, after {last} steps:",
        "",
        *_table([line for line in lines if line["step"] == last], "nfe"),
        "",
        "By training steps, 8 evaluations:",
        "",
        *_table([line for line in lines if line["nfe"] == 8], "step"),
    ]
    return "\n".join(text) + "\n"


def _table(lines: Sequence[Line], axis: str) -> list[str]:
    columns = sorted({line[axis] for line in lines})
    rows = [["chain", "prior", *map(str, columns)], ["---"] * (2 + len(columns))]
    for chain, prior in _cells(lines):
        rows.append([chain, prior, *(_figure(_values(lines, chain, prior, axis, at)) for at in columns)])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cells(lines: Sequence[Line]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((line["chain"], line["prior"]) for line in lines))


def _values(lines: Sequence[Line], chain: str, prior: str, axis: str, at: int) -> list[float]:
    return [100 * line["cer"] for line in lines if (line["chain"], line["prior"], line[axis]) == (chain, prior, at)]


def _figure(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ({min(values):.1f} - {max(values):.1f})" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def plot(lines: Sequence[Line]) -> str:
    """The same as two curves a cell, an SVG. Raises ConfigError without matplotlib (extra `eval`)."""
    pyplot = load("matplotlib.pyplot")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    last = max(line["step"] for line in lines)
    sides = (
        (left, "nfe", "evaluations", [line for line in lines if line["step"] == last]),
        (right, "step", "training steps", [line for line in lines if line["nfe"] == 8]),
    )
    for axes, axis, label, shown in sides:
        for chain, prior in _cells(shown):
            at = sorted({line[axis] for line in shown if (line["chain"], line["prior"]) == (chain, prior)})
            values = [_values(shown, chain, prior, axis, x) for x in at]
            axes.plot(at, [mean(each) for each in values], marker="o", label=f"{chain} chain, {prior} prior")
            axes.fill_between(at, [min(each) for each in values], [max(each) for each in values], alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(at, [str(x) for x in at])
        axes.set_xlabel(label)
    left.set_ylabel("character error rate, %")
    left.legend()
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    pyplot.close(figure)
    return buffer.getvalue()
