"""The ablation of chain and prior: who judges it where judges are installed, and its page, tables and a plot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from torch import Tensor

from ..errors import ConfigError
from ..training.ablation import MEANWHILE, Judge, Line, read
from ..training.corpus import Corpus
from .judges import Judges, load, rate


def read_lines(folders: Iterable[Path]) -> list[Line]:
    """Lines of every `ablation.jsonl` in or below the folders, each measurement once. Raises ConfigError for none."""
    folders = list(folders)
    found = {
        (line["variant"], line["step"], line["nfe"]): line
        for folder in folders
        for path in sorted(folder.rglob("ablation.jsonl"))
        for line in read(path)
    }
    if not found:
        raise ConfigError(
            f"no ablation.jsonl in {', '.join(map(str, folders))}: run `train ablate` or the ablation slices first"
        )
    return list(found.values())


def judge_of(judges: Judges, corpus: Corpus) -> Judge:
    """Word error rate of what Whisper reads, speaker cosine to the recording itself, and DNSMOS."""

    def judge(made: Mapping[str, Tensor]) -> dict[str, float]:
        errors, alike, quality = [], [], []
        for name, wav in made.items():
            pcm, u = wav.clamp(-1, 1).numpy(), corpus.by_id[name]
            errors.append(judges.errors(u.text, judges.read(pcm)))
            alike.append(judges.similarity(pcm, corpus.audio(u)))
            quality.append(judges.quality(pcm))
        return {"wer": rate(errors) / 100, "sim": float(np.nanmean(alike)), "dnsmos": float(np.nanmean(quality))}

    return judge


@dataclass(frozen=True)
class Measure:
    """A figure of the lines: what it is called, and what it is multiplied by when shown."""

    key: str
    title: str
    scale: float = 1.0
    digits: int = 2


MEASURES = (
    Measure("wer", "Word error rate by Whisper, %", 100, 1),
    Measure("cer", "Character error rate by the units' own reader, %", 100, 1),
    Measure("sim", "Speaker cosine to the recording"),
    Measure("dnsmos", "DNSMOS overall"),
)


def _measured(lines: Sequence[Line]) -> list[tuple[Measure, list[Line]]]:
    """The measures that there are, each with the lines that hold it."""
    pairs = [(measure, [line for line in lines if measure.key in line]) for measure in MEASURES]
    return [(measure, holding) for measure, holding in pairs if holding]


def page(lines: Sequence[Line], picture: str) -> str:
    """Markdown with, for every measure, one table by evaluations (trained to the end) and one by steps (8 evaluations);
    mean over seeds, and the lowest and highest seed where there are several."""
    text = [
        "# Chain and prior, all else alike",
        "",
        "Held-out utterances spoken again from their units, in the voice of another recording of their speaker. Mean",
        "over seeds (lowest - highest).",
        "",
        f"![{picture}]({picture})",
    ]
    for measure, holding in _measured(lines):
        last = max(line["step"] for line in holding)
        text += [
            "",
            f"## {measure.title}",
            "",
            f"By evaluations, after {last} steps:",
            "",
            *_table([line for line in holding if line["step"] == last], measure, "nfe"),
            "",
            f"By training steps, {MEANWHILE} evaluations:",
            "",
            *_table([line for line in holding if line["nfe"] == MEANWHILE], measure, "step"),
        ]
    return "\n".join(text) + "\n"


def _table(lines: Sequence[Line], measure: Measure, axis: str) -> list[str]:
    columns = sorted({line[axis] for line in lines})
    rows = [["chain", "prior", *map(str, columns)], ["---"] * (2 + len(columns))]
    for cell in _cells(lines):
        found = (_values(lines, measure, cell, (axis, at)) for at in columns)
        rows.append([*cell, *(_figure(values, measure.digits) for values in found)])
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cells(lines: Sequence[Line]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((line["chain"], line["prior"]) for line in lines))


def _values(lines: Sequence[Line], measure: Measure, cell: tuple[str, str], at: tuple[str, int]) -> list[float]:
    """The measure of every seed of a cell at a value of an axis."""
    axis, value = at
    own = [line for line in lines if (line["chain"], line["prior"]) == cell and line[axis] == value]
    return [measure.scale * line[measure.key] for line in own]


def _figure(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    spread = f" ({min(values):.{digits}f} - {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def plot(lines: Sequence[Line]) -> str:
    """The same as two curves a cell and measure, an SVG. Raises ConfigError without matplotlib (extra `eval`)."""
    pyplot = load("matplotlib.pyplot")
    measured = _measured(lines)
    figure, rows = pyplot.subplots(len(measured), 2, figsize=(9, 3.5 * len(measured)), sharey="row", squeeze=False)
    for (measure, holding), (left, right) in zip(measured, rows, strict=True):
        last = max(line["step"] for line in holding)
        sides = (
            (left, "nfe", "evaluations", [line for line in holding if line["step"] == last]),
            (right, "step", "training steps", [line for line in holding if line["nfe"] == MEANWHILE]),
        )
        for axes, axis, label, shown in sides:
            at = sorted({line[axis] for line in shown})
            for cell in _cells(shown):
                values = [_values(shown, measure, cell, (axis, x)) for x in at]
                axes.plot(at, [mean(each) for each in values], marker="o", label="{} chain, {} prior".format(*cell))
                axes.fill_between(at, [min(each) for each in values], [max(each) for each in values], alpha=0.2)
            axes.set_xscale("log", base=2)
            axes.set_xticks(at, [str(x) for x in at])
            axes.set_xlabel(label)
        left.set_ylabel(measure.title)
    rows[0][0].legend()
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    pyplot.close(figure)
    return buffer.getvalue()
