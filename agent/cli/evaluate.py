"""`speechgpt-gen eval`: the figures of a model card, by judges, in one command."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .errors import user_errors
from .offline import Device, Precision, Seed, load_model

if TYPE_CHECKING:
    from ...models.bundle import Bundle
    from ...models.evaluation.figures import Figure


class Task(StrEnum):
    """What can be judged."""

    tokenizer = "tokenizer"
    tts = "tts"
    vc = "vc"
    asr = "asr"
    dialogue = "dialogue"
    all = "all"


@user_errors
def evaluate(
    task: Annotated[Task, typer.Argument(help="What to judge.")],
    model: Annotated[str, typer.Argument(help="nano, tiny or a model's folder.")] = "nano",
    *,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Corpus with held-out texts or speakers (any layout that `train prepare` reads); "
            "without one, sentences of the package, and no questions."
        ),
    ] = None,
    items: Annotated[int, typer.Option(min=1, max=10_000, help="Items a task.")] = 100,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the report; default eval-MODEL.")] = None,
    unseen: Annotated[
        bool | None,
        typer.Option(
            "--unseen/--seen",
            help="No speaker of the corpus was trained on: use them all. Or: all were, use what it holds out of them.",
            show_default="its split says",
        ),
    ] = None,
    whisper: Annotated[Path | None, typer.Option(help="Folder of a CTranslate2 Whisper that judges text.")] = None,
    wavlm: Annotated[Path | None, typer.Option(help="Folder of a WavLM x-vector model that judges speakers.")] = None,
    bench: Annotated[bool, typer.Option(help="With `all`: time the engine too; wants a quiet machine.")] = True,
    device: Device = "auto",
    precision: Precision = None,
    seed: Seed = 0,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Judge a model on held-out speakers and texts; writes report.html, .json, .md, items.jsonl and plots."""
    from ...models.evaluation import report
    from ...models.evaluation.judges import Judges
    from ...models.evaluation.material import gather
    from ...models.evaluation.tasks import NEEDS, TASKS, Run

    began = time.monotonic()
    console = Console(stderr=True)
    judges = Judges(whisper, wavlm)
    judges.check()
    names = list(TASKS) if task is Task.all else [task.value]
    agent = load_model(model, device, precision)
    sounds: dict[str, Any] = {}
    folder = out or Path(f"eval-{agent.bundle.info.name}")
    with console.status("") as status:
        say = status.update if console.is_terminal else console.print
        needs = set().union(*(NEEDS[name] for name in names))
        material = gather(corpus, items, seed, needs, unseen=unseen, say=say)
        run = Run(agent, judges, material, items, seed, say=say, keep=sounds.__setitem__)

        def about() -> dict[str, Any]:
            return {
                "model": agent.bundle.info.name,
                "date": datetime.now(UTC).date().isoformat(),
                "items": items,
                "seed": seed,
                "precision": precision or ("int8" if agent.bundle.device.type == "cpu" else "bfloat16"),
                "parameters": dict(agent.bundle.info.parameters),
                "material": material.source,
                "judges": judges.names,
                "seconds": round(time.monotonic() - began),
            }

        for name in names:
            TASKS[name](run)
            # After each task: what is stopped in its last hour keeps the first ones.
            report.write(folder, run.figures, run.records, about(), sounds)
    if task is Task.all:
        run.figures += size_figures(agent.bundle)
        run.figures += engine_figures(agent.bundle) if bench else []
        report.write(folder, run.figures, run.records, about(), sounds)
    if json_:
        typer.echo(json.dumps({**about(), "figures": [f.to_json() for f in run.figures]}, ensure_ascii=False))
    else:
        Console().print(_table(run.figures, about()))
        typer.echo(f"report in {folder}")


def size_figures(bundle: Bundle) -> list[Figure]:
    """What the weights weigh on disk."""
    from ...models.evaluation.figures import Figure

    if bundle.info.folder is None:
        return []
    size = sum(file.stat().st_size for file in bundle.info.folder.glob("*.safetensors")) / 1e6
    return [Figure("size", "all weights", size, "MB", better="less", floor=100.0, aim=70.0)]


def engine_figures(bundle: Bundle) -> list[Figure]:
    """The engine's cost, from its bench."""
    from ...models.evaluation.figures import Figure
    from ...streaming.engine.bench import measure

    found = measure(bundle)
    lm, cores = found.semantic_ms_per_unit, found.core_seconds_per_second
    return [
        Figure("engine", "language model per unit", lm, "ms", found.turns, better="less", floor=5.0, aim=4.0),
        Figure("engine", "core-seconds per second", cores, "s", found.turns, better="less", floor=0.5, aim=0.35),
        Figure("engine", "real-time factor", found.real_time_factor, "", found.turns, better="less"),
    ]


def register(root: typer.Typer) -> None:
    """Add `eval` to the command line."""
    root.command("eval")(evaluate)


def _table(figures: list[Figure], about: dict[str, Any]) -> Table:
    from ...models.evaluation import report

    table = Table(*report.HEADER, title=f"{about['model']}: {about['material']}")
    colours = {"aim": "green", "floor": "yellow", "below": "red", "": ""}
    for figure in figures:
        table.add_row(*report.cells(figure), style=colours[figure.verdict])
    return table
