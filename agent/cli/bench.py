"""`speechgpt-gen bench`: figures of a running server, seen by a real client, and of the engine alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .errors import user_errors
from .offline import Device, Model, Precision, load_model

if TYPE_CHECKING:
    # aiortc takes seconds to import, and every command would pay.
    from ..bench.conversation import Turn

app = typer.Typer(no_args_is_help=True, help="Measure a running server or the engine.")


@app.command()
@user_errors
def conversation(
    *,
    audio: Annotated[Path, typer.Option(help="Question to ask, any format libsndfile reads.")],
    url: Annotated[str, typer.Option(help="Server to call.")] = "http://127.0.0.1:8080",
    transport: Annotated[str, typer.Option(help="webrtc or websocket.")] = "webrtc",
    turns: Annotated[int, typer.Option(min=1, max=1000, help="How often to ask.")] = 10,
    token: Annotated[str | None, typer.Option(envvar="SPEECHGPT_GEN_TOKEN", help="The server's token.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold a conversation in real time and measure it from the user's last voiced sample to the first one heard."""
    from ...models.audio import load_audio
    from ...models.errors import ConfigError
    from ..bench.conversation import report

    if transport not in ("webrtc", "websocket"):
        raise ConfigError(f"transport {transport!r} is unknown: choose webrtc or websocket")
    question = load_audio(audio, max_seconds=60)
    results: list[Turn] = []
    console = Console(stderr=json_)

    async def talk() -> None:
        from ...streaming.clock import RealClock
        from ..bench.client import connect_client
        from ..bench.conversation import hold_conversation

        clock = RealClock()
        async with connect_client(url, transport, clock, token) as client:  # type: ignore[arg-type]
            async for turn in hold_conversation(client, question, clock, turns=turns):
                results.append(turn)
                if console.is_terminal:
                    console.print(_line(len(results), turn), highlight=False)

    asyncio.run(talk())
    figures = report(results, url=url, transport=transport)  # type: ignore[arg-type]
    if json_:
        typer.echo(json.dumps(figures))
    else:
        console.print(_table(figures))
    if figures["failed"] == len(results):
        raise typer.Exit(1)


@app.command()
@user_errors
def engine(
    *,
    model: Model = "nano",
    device: Device = "auto",
    precision: Precision = None,
    turns: Annotated[int, typer.Option(min=1, max=1000, help="How often to speak the sentence.")] = 5,
    text: Annotated[str | None, typer.Option(help="Sentence to speak.")] = None,
    heard: Annotated[Path | None, typer.Option("--audio", help="Recording to listen to; default: noise.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the engine without a server: ms per unit, real-time factor, core-seconds per second of speech."""
    from ...models.audio import load_audio
    from ...streaming.engine.bench import TEXT, measure

    recording = load_audio(heard, max_seconds=30) if heard is not None else None
    bundle = load_model(model, device, precision).bundle
    figures = measure(bundle, text or TEXT, turns, recording).to_json()
    if json_:
        typer.echo(json.dumps(figures))
        return
    table = Table("figure", "value", title=f"engine of {figures['model']} on {figures['device']}, {turns} turns")
    for name, value in figures.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.3f}")
    Console().print(table)


def register(root: typer.Typer) -> None:
    """Add `bench` to the command line."""
    root.add_typer(app, name="bench")


def _line(number: int, turn: Turn) -> str:
    if turn.voice_to_voice is None:
        return f"turn {number}: {turn.error}"
    return f"turn {number}: {turn.voice_to_voice:.0f} ms  {turn.heard!r} -> {turn.answer!r}"


def _table(figures: dict[str, Any]) -> Table:
    """Percentiles as a table; stages are cumulative, each from the user's last voiced sample."""
    from ..bench.conversation import PARTS

    title = f"{figures['turns']} turns over {figures['transport']}, ms from the user's last voiced sample"
    table = Table(
        "", "p50", "p95", title=title, caption=f"{figures['failed']} failed, {figures['underruns']} underruns"
    )
    names = {"end_of_turn": "turn found to be over", "first_token": "first token", "first_audio": "first audio made"}
    rows = [(names.get(part, "first audio sent"), figures["parts_ms"][part]) for part in PARTS]
    rows += [("first voice heard", figures["voice_to_voice_ms"]), ("of it transport", figures["transport_ms"])]
    for name, values in rows:
        table.add_row(name, *((f"{values['p50']:.0f}", f"{values['p95']:.0f}") if values else ("-", "-")))
    return table
