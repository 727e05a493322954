"""`talk`, `say`, `convert`, `transcribe`, `models`: one call of the model each, without a server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...models.errors import ConfigError
from .errors import user_errors
from .model_list import describe_models, models_table
from .sound import Sink, open_sink

if TYPE_CHECKING:
    from ...models.facade import Chunk, SpeechGPTGen
    from ...models.voice import Voice

Model = Annotated[
    str, typer.Option("--model", envvar="SPEECHGPT_GEN_MODEL", help="nano, tiny (random weights) or a model's folder.")
]
Device = Annotated[
    str, typer.Option("--device", envvar="SPEECHGPT_GEN_DEVICE", help="Torch device; auto takes cuda if there is one.")
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        envvar="SPEECHGPT_GEN_PRECISION",
        help="float32, bfloat16, float16 or int8; default: int8 on the CPU, bfloat16 elsewhere.",
    ),
]
VoiceChoice = Annotated[
    str | None,
    typer.Option("--voice", help="One of the model's voices, or a recording of somebody (0.5 s or more)."),
]
Output = Annotated[str, typer.Option("--output", "-o", help="WAV file to write; - streams it to standard output.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same sound.")]
MaxSeconds = Annotated[float, typer.Option("--max-seconds", min=0.02, help="Longer answers are cut there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object (to stderr while sound goes to stdout).")]
Recording = Annotated[Path, typer.Argument(help="A recording: WAV, FLAC, Ogg or MP3.", show_default=False)]


@user_errors
def talk(
    question: Recording,
    *,
    output: Output,
    voice: VoiceChoice = None,
    mode: Annotated[
        str, typer.Option("--mode", help="text plans the answer in words first; direct does not.")
    ] = "text",
    model: Model = "nano",
    device: Device = "auto",
    precision: Precision = None,
    max_seconds: MaxSeconds = 60.0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Answer a spoken question."""
    from ...models.audio import load_audio

    how: Literal["text", "direct"]
    if mode == "text":
        how = "text"
    elif mode == "direct":
        how = "direct"
    else:
        raise ConfigError(f"unknown mode {mode!r}: choose text or direct")
    run = Run()
    sink = open_sink(output)
    pcm = load_audio(question)
    speaker = load_model(model, device, precision)
    chosen = choose_voice(speaker, voice)
    run.lap("load")
    chunks = speaker.reply((pcm, 16_000), voice=chosen, mode=how, stream=True, seed=seed, max_seconds=max_seconds)
    run.lap("listen")
    run.take(chunks, sink)
    run.report(speaker, output, json_, lines=(f"heard: {run.transcript}", f"said:  {run.text}"))


@user_errors
def say(
    text: Annotated[str, typer.Argument(help="What to say, in English.", show_default=False)],
    *,
    output: Output,
    voice: VoiceChoice = None,
    model: Model = "nano",
    device: Device = "auto",
    precision: Precision = None,
    max_seconds: MaxSeconds = 60.0,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Speak a text in a voice."""
    run = Run()
    sink = open_sink(output)
    speaker = load_model(model, device, precision)
    chosen = choose_voice(speaker, voice)
    run.lap("load")
    run.take(speaker.say(text, chosen, stream=True, seed=seed, max_seconds=max_seconds), sink)
    run.report(speaker, output, json_)


@user_errors
def convert(
    recording: Recording,
    *,
    output: Output,
    voice: VoiceChoice = None,
    model: Model = "nano",
    device: Device = "auto",
    precision: Precision = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Speak a recording again in another voice."""
    from ...models.audio import load_audio

    run = Run()
    sink = open_sink(output)
    pcm = load_audio(recording)
    speaker = load_model(model, device, precision)
    chosen = choose_voice(speaker, voice)
    run.lap("load")
    run.take(speaker.convert((pcm, 16_000), chosen, stream=True, seed=seed), sink)
    run.report(speaker, output, json_)


@user_errors
def transcribe(
    recording: Recording,
    *,
    model: Model = "nano",
    device: Device = "auto",
    precision: Precision = None,
    json_: Json = False,
) -> None:
    """Print what is said in a recording."""
    from ...models.audio import load_audio

    run = Run()
    pcm = load_audio(recording)
    speaker = load_model(model, device, precision)
    run.lap("load")
    text = speaker.transcribe((pcm, 16_000)).strip()
    run.lap("transcribe")
    if json_:
        seconds = round(len(pcm) / 16_000, 3)
        units = -(-len(pcm) // 320)
        model_name = speaker.bundle.info.name
        print_json({"model": model_name, "text": text, "units": units, "seconds": seconds, "timings_ms": run.timings})
    else:
        typer.echo(text)


@user_errors
def models(
    *,
    folders: Annotated[list[Path] | None, typer.Argument(help="Model folders to look at too.")] = None,
    json_: Json = False,
) -> None:
    """Show the models that are there: parts, size, licence."""
    found = describe_models(folders or [])
    if json_:
        print_json({"models": found})
    else:
        from rich.console import Console

        Console().print(models_table(found))


def register(app: typer.Typer) -> None:
    """Add the offline commands to the command line."""
    for command in (talk, say, convert, transcribe, models):
        app.command()(command)


@dataclass
class Run:
    """One command's work: what came out, and how long each stage took (milliseconds, in their order)."""

    text: str = ""
    transcript: str = ""
    units: int = 0
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """The stage that began with the last lap has ended."""
        now = time.perf_counter()
        self.timings[stage] = round(1000 * (now - self._last), 1)
        self._last = now

    def take(self, chunks: Iterator[Chunk], sink: Sink) -> None:
        """Write speech as it comes."""
        words: list[str] = []
        with sink:
            for chunk in chunks:
                if "first_audio" not in self.timings:
                    self.timings["first_audio"] = round(1000 * (time.perf_counter() - self._last), 1)
                sink.write(chunk.pcm)
                self.transcript += chunk.transcript
                self.units += len(chunk.units)
                self.seconds += chunk.seconds
                words += [chunk.text] if chunk.text else []
        self.lap("speak")
        self.text, self.transcript = " ".join(words), self.transcript.strip()

    def report(self, model: SpeechGPTGen, output: str, as_json: bool, lines: tuple[str, ...] = ()) -> None:
        """Tell what was done: on stdout, or on stderr while stdout carries the sound."""
        to_stdout = output == "-"
        self.timings["total"] = round(1000 * (time.perf_counter() - self._began), 1)
        if as_json:
            figures: dict[str, Any] = {"model": model.bundle.info.name}
            if self.transcript or lines:
                figures["transcript"] = self.transcript
            figures |= {"text": self.text, "units": self.units, "seconds": round(self.seconds, 3)}
            figures["real_time_factor"] = round(self.timings["speak"] / 1000 / max(self.seconds, 0.02), 3)
            print_json({**figures, "timings_ms": self.timings, "output": output}, err=to_stdout)
            return
        for line in lines:
            typer.echo(line, err=to_stdout)
        if not to_stdout:
            typer.echo(f"{output}: {self.seconds:.1f} s, made in {self.timings['speak'] / 1000:.1f} s")


def load_model(name: str, device: str, precision: str | None) -> SpeechGPTGen:
    """The model of the flags. Raises ModelNotFoundError, CheckpointError or ConfigError."""
    import torch

    from ...kernels import selection
    from ...models.facade import SpeechGPTGen

    try:
        selection.check()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        # Steps this small lose more to waiting for a second thread than it gains, far more on a busy machine.
        torch.set_num_threads(1)
    return SpeechGPTGen.load(name, device, precision or ("int8" if device == "cpu" else "bfloat16"))


def choose_voice(model: SpeechGPTGen, choice: str | None) -> str | Voice | None:
    """A voice by name, or from a recording. Raises ConfigError for what is neither, AudioError for a bad recording."""
    if choice is None or choice in model.voices:
        return choice
    if not Path(choice).is_file():
        names = ", ".join(model.voices)
        raise ConfigError(f"voice {choice!r} is neither a file nor one of the model's voices: {names}")
    return model.voice(choice, Path(choice).stem)


def print_json(value: dict[str, Any], *, err: bool = False) -> None:
    """One JSON object on one line."""
    typer.echo(json.dumps(value, ensure_ascii=False), err=err)
