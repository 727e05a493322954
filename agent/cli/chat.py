"""`speechgpt-gen chat`: a conversation in the terminal, with any server of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.live import Live

from .bench import LOCAL, Token
from .chat_screen import Captions, Line, draw, text_of
from .errors import user_errors
from .sound import open_sink

if TYPE_CHECKING:
    # Sound and network libraries take seconds to import, and every command would pay.
    from ...streaming.frames import Pcm
    from ...streaming.playout import Playout, Source
    from ..client import Client, Ear, Microphone, Sink

PATIENCE = 30.0
"""Seconds to wait for the answer to a recording."""

_QUIET_AFTER = 0.3

MicrophoneT = TypeVar("MicrophoneT", bound="Source")
SpeakerT = TypeVar("SpeakerT", bound="Sink")


def register(root: typer.Typer) -> None:
    """Add `chat` to the command line."""
    root.command()(chat)


@user_errors
def chat(
    *,
    url: Annotated[str, typer.Option(help="Server of the OpenAI Realtime protocol, ours or another.")] = LOCAL,
    transport: Annotated[str, typer.Option(help="webrtc or websocket.")] = "webrtc",
    token: Token = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for, where a server has several.")] = None,
    voice: Annotated[str | None, typer.Option(help="Voice to answer in.")] = None,
    instructions: Annotated[str | None, typer.Option(help="How the agent is to behave.")] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Say this recording instead of using a microphone; repeat for more turns.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="With --audio: write what was heard to this WAV; - for stdout.")
    ] = None,
    microphone: Annotated[str | None, typer.Option(help="Name or number of the microphone.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Name or number of the loudspeaker.")] = None,
    half_duplex: Annotated[
        bool, typer.Option(help="Do not listen while the agent speaks: for a loudspeaker beside the microphone.")
    ] = False,
) -> None:
    """Talk to a server from the terminal. Use headphones: there is no echo cancellation."""
    from ...models.audio import load_audio
    from ...models.errors import ConfigError

    if output is not None and not audio:
        raise ConfigError("-o writes the answers to recordings: give --audio too")
    session: dict[str, Any] = {"type": "realtime"}
    if voice is not None:
        session["audio"] = {"output": {"voice": voice}}
    if instructions is not None:
        session["instructions"] = instructions
    call = Call(url, {"transport": transport, "token": token, "model": model}, session)
    screen = Screen(Console(stderr=output == "-"))
    try:
        if audio:
            questions = [load_audio(path, max_seconds=60) for path in audio]
            heard = asyncio.run(_recite(call, screen, questions))
            if output is not None:
                with open_sink(output) as sink:
                    sink.write(heard)
        else:
            asyncio.run(_converse(call, screen, (microphone, speaker), half_duplex=half_duplex))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@dataclass(frozen=True)
class Call:
    """Whom to call, how, and what to set the session to."""

    url: str
    options: dict[str, Any]
    session: dict[str, Any]

    @contextlib.asynccontextmanager
    async def open(self, microphone: MicrophoneT, speaker: SpeakerT) -> AsyncIterator[Client[MicrophoneT, SpeakerT]]:
        """A connected client. Raises ServerError."""
        from ..client import Client

        async with Client(self.url, microphone, speaker, **self.options) as client:
            if len(self.session) > 1:
                client.send({"type": "session.update", "session": self.session})
            yield client


class Screen:
    """A live screen on a terminal; elsewhere one line for each turn that is complete."""

    def __init__(self, console: Console) -> None:
        self.captions = Captions()
        self.levels: Callable[[], tuple[float, float]] = lambda: (-100.0, -100.0)
        self._console = console
        self._printed: set[str] = set()

    def show(self) -> contextlib.AbstractContextManager[object]:
        """Draw while the `with` block lasts."""
        if not self._console.is_terminal:
            return contextlib.nullcontext()
        return Live(get_renderable=self._draw, console=self._console, refresh_per_second=12)

    def take(self, event: dict[str, Any]) -> None:
        """One event of the conversation."""
        note = self.captions.note
        self.captions.take(event)
        if self._console.is_terminal:
            return
        for item, line in self.captions.lines.items():
            if line.done and line.text and item not in self._printed:
                self._printed.add(item)
                self._console.print(_plain(line), highlight=False, markup=False, soft_wrap=True)
        if self.captions.note and self.captions.note != note:
            self._console.print(self.captions.note, highlight=False, markup=False, soft_wrap=True)

    def _draw(self) -> Any:
        return draw(self.captions, *self.levels(), self._console.height)


def _plain(line: Line) -> str:
    return f"{line.who}: {text_of(line).plain}"


async def _converse(call: Call, screen: Screen, devices: tuple[str | None, str | None], *, half_duplex: bool) -> None:
    """Talk by the sound card until interrupted from the keyboard, or the server ends the session."""
    from ..client import Microphone, Speaker

    with Microphone(_device(devices[0])) as microphone, Speaker(_device(devices[1])) as speaker:
        screen.levels = lambda: (microphone.level, speaker.level)
        async with call.open(microphone, speaker) as client:
            with screen.show():
                async for event in client:
                    screen.take(event)
                    if half_duplex:
                        _take_turns(microphone, screen.captions.state)


def _take_turns(microphone: Microphone, state: str) -> None:
    microphone.muted = state in ("speaking", "thinking")


async def _recite(call: Call, screen: Screen, questions: list[Pcm]) -> Pcm:
    """Say recordings, each when the answer to the one before has been heard; returns what was heard, (N,)."""
    from ...streaming.clock import RealClock
    from ...streaming.playout import Playout
    from ..client import Ear

    ear, microphone = Ear(RealClock()), Playout()
    screen.levels = lambda: (microphone.level, ear.level)
    async with call.open(microphone, ear) as client:
        with screen.show():
            for number, question in enumerate(questions, 1):
                microphone.push(number, question)
                microphone.end(number)
                await _answer(client, screen, patience=len(question) / 16_000 + PATIENCE)
    return ear.recording()


async def _answer(client: Client[Playout, Ear], screen: Screen, patience: float) -> None:
    """Follow one turn until its answer has been heard to its end."""
    from ...models.errors import EngineError

    try:
        async with asyncio.timeout(patience):
            while True:
                event = await anext(client)
                screen.take(event)
                # A pause in the recording may end a turn too soon; its answer is then interrupted by the rest.
                if event["type"] == "response.done" and client.microphone.playing is None:
                    break
            await asyncio.sleep(_QUIET_AFTER)
            while not client.speaker.quiet:  # noqa: ASYNC110 - what is waited for is the passing of time
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise EngineError(f"no answer within {PATIENCE:.0f} s: does the recording hold speech?") from None
    except StopAsyncIteration:
        raise EngineError("the server has ended the session") from None


def _device(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name
