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

LOCAL = "http://127.0.0.1:8080"
Token = Annotated[str | None, typer.Option(envvar="SPEECHGPT_GEN_TOKEN", help="The server's token.")]

Slots = Annotated[int, typer.Option(min=1, max=256, help="Conversations at a time, on a GPU.")]
Context = Annotated[int, typer.Option(min=256, help="Tokens that one conversation can hold, on a GPU.")]
KvCache = Annotated[str | None, typer.Option(help="fp8: keys and values in half the memory, on a GPU.")]

app = typer.Typer(no_args_is_help=True, help="Measure a running server or the engine.")


@app.command()
@user_errors
def conversation(
    *,
    audio: Annotated[Path, typer.Option(help="Question to ask, any format libsndfile reads.")],
    url: Annotated[str, typer.Option(help="Server of the OpenAI Realtime protocol, ours or another.")] = LOCAL,
    transport: Annotated[str, typer.Option(help="webrtc or websocket.")] = "webrtc",
    turns: Annotated[int, typer.Option(min=1, max=100_000, help="How often each session asks.")] = 10,
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop asking after this long.")] = None,
    sessions: Annotated[int, typer.Option(min=1, max=1000, help="Conversations at once.")] = 1,
    barge_in: Annotated[
        float | None, typer.Option(min=0.1, help="Interrupt each answer this many seconds after it began.")
    ] = None,
    loss: Annotated[float, typer.Option(min=0, max=90, help="Percent of packets lost, each way.")] = 0.0,
    jitter: Annotated[float, typer.Option(min=0, max=1000, help="Milliseconds a packet may be late, each way.")] = 0.0,
    token: Token = None,
    name: Annotated[str | None, typer.Option("--model", help="Model to ask for, where a server has several.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots to this file.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hold conversations in real time and measure them from the user's last voiced sample to the first one heard."""
    from ...models.audio import load_audio
    from ...models.errors import ConfigError
    from ...streaming.clock import RealClock
    from ..bench.page import page
    from ..bench.report import report
    from ..bench.sessions import Plan, first_error, measure

    if transport not in ("webrtc", "websocket"):
        raise ConfigError(f"transport {transport!r} is unknown: choose webrtc or websocket")
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        raise ConfigError(f"--html {html}: give the name of a file in a folder that exists")
    plan = Plan(
        url=url,
        question=load_audio(audio, max_seconds=60),
        transport=transport,  # type: ignore[arg-type]
        turns=turns,
        seconds=seconds,
        sessions=sessions,
        barge_in=barge_in,
        loss=loss / 100,
        jitter=jitter / 1000,
        token=token,
        model=name,
    )
    console = Console(stderr=json_)

    def on_turn(session: int, turn: Turn) -> None:
        if console.is_terminal:
            console.print(_line(session, turn), highlight=False, markup=False)

    try:
        measured = asyncio.run(measure(plan, RealClock(), on_turn))
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    figures = report(plan, measured)
    if html is not None:
        html.write_text(page(figures, measured), encoding="utf-8")
    if json_:
        typer.echo(json.dumps(figures))
    else:
        console.print(_table(figures))
    if figures["failed"] == figures["turns"]:
        if not json_:
            console.print(f"every turn failed: {figures['each'][0]['error']}", markup=False)
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
    slots: Slots = 32,
    context: Context = 2048,
    kv_cache: KvCache = None,
    peer: Annotated[
        str | None, typer.Option(help="On a GPU: transformers measures its generate on the same weights.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the engine without a server. On a CPU: ms per unit, real-time factor, core-seconds per second of speech;
    on a GPU: the decode step by batch size, tokens and bytes a second, share of the copy bandwidth."""
    from ...models.audio import load_audio
    from .bench_batched import on_gpu, print_figures

    if on_gpu(device) or model == "8b" or peer is not None or kv_cache is not None:
        print_figures(
            "engine", model, device, precision, slots=slots, context=context, peer=peer, kv_cache=kv_cache, json_=json_
        )
        return
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


@app.command()
@user_errors
def flow(
    *,
    model: Model = "8b",
    device: Device = "auto",
    precision: Precision = None,
    slots: Slots = 16,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the flow: ms of a block's whole solve and of its decoding to sound, by batch size."""
    from .bench_batched import print_figures

    print_figures("flow", model, device, precision, slots=slots, context=2048, json_=json_)


@app.command(name="first-audio")
@user_errors
def first_audio(
    *,
    model: Model = "8b",
    device: Device = "auto",
    precision: Precision = None,
    context: Context = 2048,
    kv_cache: KvCache = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the batched engine alone from the end of a turn to the first sound of its answer, part by part."""
    from .bench_batched import print_figures

    print_figures("first-audio", model, device, precision, slots=4, context=context, kv_cache=kv_cache, json_=json_)


@app.command()
@user_errors
def sessions(
    *,
    model: Model = "8b",
    device: Device = "auto",
    precision: Precision = None,
    slots: Slots = 32,
    context: Context = 2048,
    kv_cache: KvCache = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw p95 of first audio over the sessions to this SVG file.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how many conversations the batched engine can let speak at once in real time."""
    from .bench_batched import print_figures

    print_figures(
        "sessions", model, device, precision, slots=slots, context=context, kv_cache=kv_cache, json_=json_, plot=plot
    )


def register(root: typer.Typer) -> None:
    """Add `bench` to the command line."""
    root.add_typer(app, name="bench")


def _line(session: int, turn: Turn) -> str:
    who = f"session {session}: "
    if turn.voice_to_voice is None:
        return who + (turn.error or "no answer")
    stop = f", silent {turn.barge_in:.0f} ms after a barge-in" if turn.barge_in is not None else ""
    return f"{who}{turn.voice_to_voice:.0f} ms  {turn.heard!r} -> {turn.answer!r}{stop}"


def _table(figures: dict[str, Any]) -> Table:
    """Percentiles as a table; stages are cumulative, each from the user's last voiced sample."""
    from ..bench.page import STAGES

    many = f" in each of {figures['sessions']} sessions" if figures["sessions"] > 1 else ""
    title = f"{figures['turns'] // figures['sessions']} turns{many} over {figures['transport']}, ms"
    notes = [f"{figures['failed']} turns failed, {figures['underruns']} underruns"]
    if figures["longest_stall_ms"]:
        notes.append(f"longest stall {figures['longest_stall_ms']:.0f} ms")
    if packets := figures["packets"]:
        late = packets["late_ms"]
        notes.append(f"packets late {late['p50']:.0f} / {late['p95']:.0f} / {late['p99']:.0f} ms (p50 / p95 / p99)")
    if (delay := figures["delay"]) and _rough(figures):
        notes.append(
            f"{packets['lost_percent']:.1f} % lost, longest concealed {packets['longest_concealed_ms']:.0f} ms"
        )
        raised = delay["longest_raised_ms"]
        notes.append(
            f"delay {delay['usual_ms']:.0f} ms, at most {delay['max_ms']:.0f}, raised for {raised:.0f} ms at most"
        )
    table = Table("from the user's last voiced sample", "p50", "p95", title=title, caption="\n".join(notes))
    rows = [("voice to voice: first voice heard", figures["voice_to_voice_ms"])]
    rows += [("  endpointing", figures["endpointing_ms"]), ("  answering", figures["answering_ms"])]
    rows += [(f"server: {name}", figures["parts_ms"][part]) for part, name in STAGES.items()]
    rows += [("not the server's: transport", figures["transport_ms"])]
    rows += [("sound after a barge-in", figures["barge_in_stop_ms"])]
    for name, values in rows:
        if values:
            table.add_row(name, f"{values['p50']:.0f}", f"{values['p95']:.0f}")
    return table


def _rough(figures: dict[str, Any]) -> bool:
    """Whether packets were lost or delayed on purpose."""
    return bool(figures["loss"] or figures["jitter_ms"])
