"""What an engine is: slots that listen to a turn and generate an answer, whatever computes it.

The event loop owns every call here except `Generation.cancel`, which any thread may call. No call blocks: the work
happens on the engine's own threads. A session's order of calls is

    begin_turn(history), listen(pcm)..., generate(request) -> outputs [, cancel() ...], begin_turn(history), ...

`generate` does not consume the turn: after `cancel` the same turn goes on with more `listen` and another `generate`.
An answer never enters the engine's memory by itself; the next `begin_turn` says what was heard of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.semantic.pieces import Message
from ...models.voice import Voice

if TYPE_CHECKING:
    from ...models.semantic.sampling import SamplingOptions

__all__ = [
    "Audio",
    "CallMessage",
    "Engine",
    "EngineInfo",
    "EngineSession",
    "Finished",
    "FunctionCall",
    "Generation",
    "Message",
    "Output",
    "Request",
    "ResultMessage",
    "Text",
    "Tool",
    "Transcript",
    "Trouble",
    "Voice",
    "Word",
]


@dataclass(frozen=True)
class Transcript:
    """What the user said: the whole transcript of this turn so far; `final` when nothing will be added."""

    text: str
    final: bool


@dataclass(frozen=True)
class Text:
    """A piece of the answer as planned, before it is spoken; the pieces concatenate to the answer."""

    text: str


@dataclass(frozen=True)
class Word:
    """A word of the answer and the frame (20 ms, from the answer's begin) where it starts to be spoken."""

    text: str
    frame: int


@dataclass(frozen=True, eq=False)
class Audio:
    """Consecutive sound of the answer: float32 (320 * (end_frame - start_frame),) at 16 kHz in [-1, 1]."""

    pcm: NDArray[np.float32]
    start_frame: int
    end_frame: int


@dataclass(frozen=True)
class FunctionCall:
    """A piece of a call of one of the request's tools; the `arguments` of one call_id concatenate to JSON text.

    last: nothing of this call follows.
    """

    call_id: str
    name: str
    arguments: str
    last: bool = False


@dataclass(frozen=True)
class Trouble:
    """Something failed on the way to this answer, and the answer says so: a code for programs, one line for people."""

    code: str
    message: str


FinishReason = Literal["completed", "cancelled", "length", "failed"]


@dataclass(frozen=True)
class Finished:
    """The last output of every generation.

    error: one line, when reason is "failed". timings: milliseconds since generate(), of those that happened:
    "transcript", "first_token", "first_unit", "first_block", "first_audio", "total".
    units: spoken so far; seconds: of sound given out. parts: of engines that share a GPU, milliseconds up to the first
    sound by what they went into: "queue" (others' work), "prefill", "decode", "flow", "codec".
    """

    reason: FinishReason
    error: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    units: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


Output = Transcript | Text | Word | Audio | FunctionCall | Trouble | Finished


@dataclass(frozen=True)
class Tool:
    """A function that the model may ask to be called. parameters: JSON Schema of its arguments, an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CallMessage(Message):
    """In a history: a call that the assistant made; `text` is empty. Only for engines whose info says `calls`."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ResultMessage(Message):
    """In a history: what a call gave, as `text`; the role is "user"."""

    call_id: str


@dataclass(frozen=True)
class Request:
    """What to generate.

    kind: "reply" answers the turn; "say" speaks `text`; "transcribe" only finishes the transcript; "convert" speaks
    the turn's own units again in the session's voice (zero-shot voice conversion, paper section 4.4).
    text: for "reply" a typed message instead of speech (None: answer what was heard); for "say" what to speak.
    mode: "text" plans the answer as text first (chain of modality); "direct" speaks at once.
    speak: False gives the answer as text only (mode "text").
    instructions: a system prompt for this answer, None for that of the history.
    sampling: None for the model's own defaults.
    seed: None for a fresh one; the same seed after the same turn gives the same answer.
    max_seconds: the longest answer; what is longer finishes with "length".
    max_ahead_seconds: how far the answer may be generated ahead of a listener who plays it from its first block on,
    so that a conversation that is interrupted has not cost much; None as fast as it goes (recordings).
    tools, tool_choice: functions that a reply may call, and whether it may or must, or which; only for engines whose
    info says `calls`.
    """

    kind: Literal["reply", "say", "transcribe", "convert"] = "reply"
    text: str | None = None
    mode: Literal["text", "direct"] = "text"
    speak: bool = True
    instructions: str | None = None
    sampling: SamplingOptions | None = None
    seed: int | None = None
    max_seconds: float = 60.0
    max_ahead_seconds: float | None = 20.0
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["auto", "none", "required"] | Tool = "auto"


class Generation(Protocol):
    """One answer on its way: iterate once for its outputs; the last one is always `Finished`."""

    @property
    def id(self) -> int:
        """Unique within the engine and growing."""
        ...

    def __aiter__(self) -> AsyncIterator[Output]: ...

    def cancel(self) -> None:
        """Stop at once (any thread, any number of times): outputs not yet taken are dropped, except `Finished`."""
        ...


class EngineSession(Protocol):
    """One slot: one conversation's listening and speaking."""

    @property
    def heard(self) -> str:
        """Transcript of the present turn so far."""
        ...

    def begin_turn(self, history: Sequence[Message]) -> None:
        """Start a new user turn after `history`: cancels a generation that runs and forgets the last turn's audio."""
        ...

    def listen(self, pcm: NDArray[np.float32]) -> None:
        """Take more of the user's audio of this turn: float32 (N,), 16 kHz, any N. What comes while an answer is
        generated waits: it belongs to the turn if the answer is cancelled. Raises AudioError for NaN."""
        ...

    def generate(self, request: Request) -> Generation:
        """Answer from what was listened so far. A generation that still runs is cancelled first."""
        ...

    def set_voice(self, voice: str | Voice) -> None:
        """Speak the next generations in this voice. Raises ConfigError for an unknown name."""
        ...

    async def close(self) -> None:
        """Cancel what runs and free the slot at once; closing twice does no harm."""
        ...


@dataclass(frozen=True)
class EngineInfo:
    """name: of the model. slots: conversations at a time. voices: names, the first is the default. calls: whether
    replies can call functions."""

    name: str
    slots: int
    voices: tuple[str, ...]
    calls: bool = False


class Engine(Protocol):
    """A model behind a fixed number of slots."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def in_use(self) -> int:
        """Slots taken now."""
        ...

    async def start(self) -> None:
        """Load and warm up; raises a SpeechGPTGenError that says why if the engine cannot serve."""
        ...

    async def stop(self) -> None:
        """End every session and give the memory and threads back."""
        ...

    async def open(self, *, voice: str | Voice | None = None) -> EngineSession:
        """Take a slot. Raises EngineFullError at once when none is free, ConfigError for an unknown voice."""
        ...

    async def make_voice(self, pcm: NDArray[np.float32], name: str) -> Voice:
        """A voice from a recording, float32 (N,) at 16 kHz. Raises AudioError when it cannot be used."""
        ...
