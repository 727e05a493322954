"""The chain of a conversation in two halves: `Listener` (audio, units, text, units) and `Speaker` (units, audio).

The halves share nothing but units, so an engine may run them on two threads; the facade runs them on one. Both cut
their work by absolute positions only (heard audio every 160 ms, spoken units by the block schedule), so that neither
the arrival of audio nor the number of threads can change a single bit of an answer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .audio import HOP, SAMPLE_RATE
from .bundle import Bundle
from .errors import AudioError, EngineError
from .perceptual.schedule import BlockSchedule
from .perceptual.streaming import FlowPrompt, StreamingFlow
from .semantic.decoder import Decoder, LocalDecoder
from .semantic.grammar import Grammar
from .semantic.layout import Mode
from .semantic.pieces import Message, Piece, Unit
from .semantic.sampling import SamplingOptions
from .semantic.session import SemanticSession
from .semantic.text import normalise
from .speech_tokenizer.semantic_encoder import SemanticState
from .voice import MAX_VOICE_SECONDS, MIN_VOICE_SECONDS, Voice
from .voice_prompts import VoicePrompts

LISTEN_SAMPLES = 8 * HOP
"""Heard audio is worked off in pieces of 160 ms: eight units cost little more than one."""

SOUND_SEED = 0x736F756E64
"""Makes the flow's noise another than that which drew the units: both are keyed by (seed, position, channel)."""


Answering = Generator[Piece, None, None]


class Ear(Protocol):
    """What makes units of a stream of audio. States are values: an older one may be gone on from as well."""

    def open(self) -> Any:
        """The state of a stream that has heard nothing."""
        ...

    def step(self, pcm: NDArray[np.float32], state: Any, *, end: bool) -> tuple[list[int], Any]:
        """Units known by the next `LISTEN_SAMPLES` samples of a stream, or by its last ones, at most so many.

        They are as a listener takes them (`speech_tokenizer/detail.py`).
        """
        ...


class PlainEar:
    """A bundle's ear, by plain calls of its encoder."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def open(self) -> SemanticState:
        return self._bundle.tokenizer.semantic_state()

    def step(self, pcm: NDArray[np.float32], state: SemanticState, *, end: bool) -> tuple[list[int], SemanticState]:
        wav = torch.from_numpy(pcm).to(self._bundle.device)
        units, state = self._bundle.tokenizer.hear_chunk(wav, state, end=end)
        return units.tolist(), state


class Listener:
    """One conversation's ear and mind: takes a turn's audio and gives the pieces of answers to it.

    Answers don't use the turn up. Each is a generator that rewinds to where it began when it ends or is closed. Only
    one is open at a time: another answer or another turn closes it.

    decoder: the sequence of the semantic model that this conversation has to itself; by default a cache of its own.
    ear: by default plain calls of the bundle's encoder.
    """

    def __init__(self, bundle: Bundle, decoder: Decoder | None = None, ear: Ear | None = None) -> None:
        self._encoder = ear or PlainEar(bundle)
        self._turns, self._takes_instructions = bundle.config.history_turns, bundle.config.instructions
        decoder = decoder or LocalDecoder(bundle.semantic, Grammar(bundle.vocabulary))
        self._session = SemanticSession(decoder, restate=bundle.config.restate, recognizer=bundle.recognizer)
        self.longest = 0.5 * decoder.capacity / 55
        """Seconds of speech that one turn may last: 50 units and about 5 text tokens a second, room for the answer."""
        self._answer: Answering | None = None
        self.begin([])

    @torch.inference_mode()
    def begin(self, history: Sequence[Message]) -> None:
        """Start a turn after `history`."""
        self.close_answer()
        self._history = tuple(history)
        self._session.begin_turn(self._told(self._history))
        self._ear = self._encoder.open()
        self._waiting: list[NDArray[np.float32]] = []
        self._samples = 0
        self._heard: list[int] = []
        self._worked = 0

    @property
    def transcript(self) -> str:
        """What was understood of the turn so far."""
        return self._session.transcript

    @property
    def cut_short(self) -> bool:
        """Whether the last answer that came to its end did so because the model had no more room or patience."""
        return self._session.ended == "length"

    def listen(self, pcm: NDArray[np.float32]) -> None:
        """Take more of the turn's audio, float32 (N,) at 16 kHz; `work` understands it."""
        if len(pcm):
            self._waiting.append(pcm)
            self._samples += len(pcm)

    @torch.inference_mode()
    def work(self) -> bool:
        """Understand 160 ms of what waits; False if there is less. Raises AudioError when the turn is too long."""
        if self._samples - self._worked < LISTEN_SAMPLES:
            return False
        if self._samples > self.longest * SAMPLE_RATE:
            raise AudioError(f"the turn lasts longer than {self.longest:.0f} s: speak in shorter turns")
        audio = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting)
        self._waiting = [audio[LISTEN_SAMPLES:]]
        self._worked += LISTEN_SAMPLES
        units, self._ear = self._encoder.step(audio[:LISTEN_SAMPLES], self._ear, end=False)
        self._heard += units
        self._session.hear(units)
        return True

    def transcribe(self) -> Answering:
        """The transcript, as if the turn ended here."""
        return self._open(self._transcribe())

    def reply(
        self,
        mode: Mode = "text",
        sampling: SamplingOptions | None = None,
        seed: int = 0,
        instructions: str | None = None,
    ) -> Answering:
        """Answer what was heard, or without any audio the message that ends the history.

        instructions: take the place of the history's system text. Raises EngineError if there is nothing to answer.
        """
        if self._samples:
            return self._open(self._reply(self._instructed(self._history, instructions), mode, sampling, seed))
        earlier, last = self._history[:-1], self._history[-1:]
        if not last or last[0].role != "user":
            raise EngineError("there is nothing to answer: listen to some audio or give a text first")
        normalise(last[0].text)
        history = self._instructed(earlier, instructions)
        return self._open(self._reply_to(history, last[0].text, mode, sampling, seed))

    def reply_to(
        self,
        text: str,
        mode: Mode = "text",
        sampling: SamplingOptions | None = None,
        seed: int = 0,
        instructions: str | None = None,
    ) -> Answering:
        """Answer a typed message; the turn's audio is not looked at. Raises TextError as `say` does."""
        normalise(text)  # refused here, when the answer is asked for, rather than when it is first iterated
        history = self._instructed(self._history, instructions)
        return self._open(self._reply_to(history, text, mode, sampling, seed))

    def say(self, text: str, sampling: SamplingOptions | None = None, seed: int = 0) -> Answering:
        """Speak `text`. Raises TextError for text that has no letter or digit or is too long (see `normalise`)."""
        normalise(text)
        return self._open(self._say(text, sampling, seed))

    def convert(self) -> Answering:
        """The units of the turn itself, to be spoken in another voice. Raises EngineError if nothing was heard."""
        if not self._samples:
            raise EngineError("there is nothing to convert: listen to some audio first")
        return self._open(self._convert())

    def close_answer(self) -> None:
        """Stop the answer that is open, if any, and rewind."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()

    def _open(self, answer: Answering) -> Answering:
        self.close_answer()
        self._answer = answer
        return answer

    @torch.inference_mode()
    def _transcribe(self) -> Answering:
        with self._closed_turn() as last:
            yield next(self._session.reply("text", None, 0, last))

    @torch.inference_mode()
    def _reply(self, history: Sequence[Message], mode: Mode, sampling: SamplingOptions | None, seed: int) -> Answering:
        # What waits is worked off before the history changes: then both histories have heard the same.
        while self.work():
            pass
        with self._after(history), self._closed_turn() as last:
            yield from self._session.reply(mode, sampling, seed, last)

    @torch.inference_mode()
    def _reply_to(
        self, history: Sequence[Message], text: str, mode: Mode, sampling: SamplingOptions | None, seed: int
    ) -> Answering:
        with self._after(history):
            yield from self._session.reply_to(text, mode, sampling, seed)

    @torch.inference_mode()
    def _say(self, text: str, sampling: SamplingOptions | None, seed: int) -> Answering:
        with self._after(self._history):
            yield from self._session.say(text, sampling, seed)

    @torch.inference_mode()
    def _convert(self) -> Answering:
        last = self._last_units()
        for index in (*self._heard, *last):
            yield Unit(index)

    def _last_units(self) -> list[int]:
        """Units of what is left of the turn, as its end; the ear goes on as if nothing had ended."""
        while self.work():
            pass
        rest = np.concatenate([*self._waiting, np.zeros(0, np.float32)])
        # The ear's state is a value: not keeping the new one is what takes the end back.
        units, _ = self._encoder.step(rest, self._ear, end=True)
        return units

    @contextmanager
    def _closed_turn(self) -> Iterator[list[int]]:
        """The units that end the turn, for an answer to hear; what was heard of them is taken back afterwards."""
        last = self._last_units()
        mark = self._session.mark()
        try:
            yield last
        finally:
            self._session.rewind(mark)

    @contextmanager
    def _after(self, history: Sequence[Message]) -> Iterator[None]:
        """Let the turn, as far as it was heard, follow another history for a while."""
        mark = self._session.mark()
        try:
            told = self._told(history)
            if told != self._told(self._history):
                self._session.begin_turn(told)
                self._session.hear(self._heard)
            yield
        finally:
            self._session.rewind(mark)

    def _told(self, history: Sequence[Message]) -> tuple[Message, ...]:
        """As much of a history as the semantic model takes."""
        asked = [at for at, message in enumerate(history) if message.role == "user"]
        first = 0 if len(asked) <= self._turns else asked[-self._turns]
        turns = history[first:] if self._turns else ()
        system = [m for m in history if m.role == "system"] if self._takes_instructions else []
        return (*system, *(m for m in turns if m.role != "system"))

    def _instructed(self, history: Sequence[Message], instructions: str | None) -> Sequence[Message]:
        if instructions is None:
            return history
        return (Message("system", instructions), *(message for message in history if message.role != "system"))


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive sound: float32 (320 * (end_frame - start_frame),) in [-1, 1], and its units with their detail, one a
    frame."""

    pcm: NDArray[np.float32]
    start_frame: int
    end_frame: int
    units: tuple[int, ...]


class BlockCutter:
    """Cuts a stream of units into the blocks of a schedule."""

    def __init__(self, schedule: BlockSchedule) -> None:
        self._schedule = schedule
        self._blocks = 0
        self._waiting: list[int] = []

    def push(self, unit: int) -> tuple[int, ...] | None:
        """Take one unit; the block that is now complete, if any."""
        self._waiting.append(unit)
        return self.finish() if len(self._waiting) == self._schedule.size(self._blocks) else None

    def finish(self) -> tuple[int, ...] | None:
        """What waits as a last, shorter block, or None."""
        if not self._waiting:
            return None
        units, self._waiting = tuple(self._waiting), []
        self._blocks += 1
        return units


class Speaker:
    """A bundle's mouth: units in any of its voices. Keeps the encoded prompts of the voices used last."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._flow = StreamingFlow(bundle.perceptual, bundle.config.solver, bundle.config.blocks)
        self._prompts = VoicePrompts(bundle, self._flow)

    @torch.inference_mode()
    def open(self, voice: Voice, seed: int) -> Utterance:
        """A new utterance that starts at frame 0."""
        return Utterance(self._bundle, self._flow, self._prompts.of(voice), seed)


class Utterance:
    """One answer's sound on its way, block by block."""

    def __init__(self, bundle: Bundle, flow: StreamingFlow, prompt: FlowPrompt, seed: int) -> None:
        self._tokenizer = bundle.tokenizer
        self._device = bundle.device
        self._flow = flow
        self._state = flow.open(seed ^ SOUND_SEED, prompt)
        self._decoder = bundle.tokenizer.decoder_state(1)

    @torch.inference_mode()
    def speak(self, units: Sequence[int]) -> Block:
        """Sound of the next block of 1 .. longest-block units, with detail or without.

        Raises EngineError if the models' numbers break down.
        """
        start = self._state.frame
        v1 = self._tokenizer.semantics(torch.tensor([units], device=self._device))
        latents = self._flow.step(v1, self._state)
        wav, self._decoder = self._tokenizer.decode_chunk(latents, self._decoder)
        pcm = wav[0, 0].float().cpu().numpy()
        if not np.isfinite(pcm).all():
            raise EngineError(f"the sound from frame {start} on is not finite: the model's weights are broken")
        return Block(np.clip(pcm, -1.0, 1.0), start, self._state.frame, tuple(units))


@torch.inference_mode()
def units_of(bundle: Bundle, pcm: NDArray[np.float32]) -> list[int]:
    """Units of a whole recording with their detail, float32 (N,) at 16 kHz: ceil(N / 320) of them."""
    wav = torch.from_numpy(pcm).to(bundle.device)
    units: list[int] = bundle.tokenizer.hear(wav[None, None])[0].tolist()
    return units


def speak_units(
    speaker: Speaker, units: Sequence[int], schedule: BlockSchedule, voice: Voice, seed: int
) -> Iterator[Block]:
    """Sound of units that are all known."""
    utterance = speaker.open(voice, seed)
    start = 0
    for length in schedule.lengths(len(units)):
        yield utterance.speak(units[start : start + length])
        start += length


@torch.inference_mode()
def make_voice(bundle: Bundle, pcm: NDArray[np.float32], name: str) -> Voice:
    """A voice from a recording, float32 (N,) at 16 kHz: of a long one the loudest three seconds.

    Raises AudioError, naming the voice, for less than half a second, silence, or samples that are not finite.
    """
    if len(pcm) < MIN_VOICE_SECONDS * SAMPLE_RATE:
        raise AudioError(
            f"voice {name!r} is {len(pcm) / SAMPLE_RATE:.2f} s long: record at least {MIN_VOICE_SECONDS:g} s of speech"
        )
    if not np.isfinite(pcm).all():
        raise AudioError(f"voice {name!r} holds NaN or infinite samples: record it again")
    if float(np.abs(pcm).max()) < 1e-3:
        raise AudioError(f"voice {name!r} is silent: record at least {MIN_VOICE_SECONDS:g} s of speech")
    frames = len(pcm) // HOP
    longest = int(MAX_VOICE_SECONDS * SAMPLE_RATE) // HOP
    if frames > longest:
        energy = np.concatenate([[0.0], np.cumsum(np.square(pcm[: frames * HOP].reshape(frames, HOP)).sum(1))])
        start = int(np.argmax(energy[longest:] - energy[:-longest]))
        pcm = pcm[start * HOP : (start + longest) * HOP]
    wav = torch.from_numpy(np.ascontiguousarray(pcm[: len(pcm) // HOP * HOP])).to(bundle.device)
    units, latents = bundle.tokenizer.encode_voice(wav[None, None])
    return Voice(name, units[0].clone(), latents[0].float().clone())
