"""A slot on the language model's thread: commands in, one small burst of work at a time, units out."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.errors import SpeechGPTGenError
from ...models.generation import Answering, BlockCutter, Ear, Listener
from ...models.semantic import pieces
from ...models.semantic.decoder import Decoder
from .generation import LocalGeneration
from .protocol import Message, Request, Text, Transcript, Voice, Word

log = logging.getLogger(__name__)

ALREADY = -float("inf")

BURST = 8
"""Tokens that one slot may generate before the next slot gets its turn: about 30 ms."""


@dataclass(eq=False)
class Turn:
    """A user's turn; `heard` is written by the model's thread and read by the event loop."""

    history: tuple[Message, ...] = ()
    heard: str = ""


@dataclass(frozen=True, eq=False)
class Listen:
    """Audio of the present turn."""

    pcm: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """Generate an answer in a voice; `seed` is the request's, or one drawn for it."""

    generation: LocalGeneration
    voice: Voice
    seed: int


Command = Turn | Listen | Answer


@dataclass(frozen=True, eq=False)
class SpeechJob:
    """For the speaking thread: block `index` of an answer.

    units: the block's; none at all to get ready for the answer while its text is being planned; None to end it.
    """

    answer: Answer
    units: tuple[int, ...] | None
    index: int
    length_reached: bool = False


@dataclass(eq=False)
class _Running:
    """An answer that is being generated."""

    answer: Answer
    pieces: Answering
    cutter: BlockCutter
    units: int = 0
    blocks: int = 0
    words: int = 0
    transcript: str = ""
    listened: bool = False


class Slot:
    """One conversation on the language model's thread. Only `inbox` is touched by others, holding `changed`.

    speak: takes a SpeechJob to the speaking thread. now: seconds, monotonic. changed: what the slot's thread waits for.
    decoder: the slot's own sequence of the semantic model, by default one that has the model to itself. ear: what makes
    units of audio, by default plain calls. spent: seconds that the decoder spent by part since it was asked last.
    """

    def __init__(
        self,
        bundle: Bundle,
        speak: Callable[[SpeechJob], None],
        now: Callable[[], float],
        changed: threading.Condition,
        *,
        decoder: Decoder | None = None,
        ear: Ear | None = None,
        spent: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.inbox: deque[Command] = deque()
        self.changed = changed
        self._decoder, self._ear, self._spent = decoder, ear, spent
        self._bundle = bundle
        self._speak = speak
        self._now = now
        self._listener = Listener(bundle, decoder, ear)
        self._turn = Turn()
        self._samples = 0
        self._broken: str | None = None
        self._running: _Running | None = None
        self._idle = True

    def due(self) -> float | None:
        """When there is work to do: a time (of `now`) that may be past, or None for not before the next command."""
        if self._running is not None:
            return self._due_running(self._running)
        return None if self._idle and not self.inbox else ALREADY

    def next_command(self) -> Command | None:
        """Take the next command out if it is due: nothing runs, and the audio taken before it is understood."""
        if self._running is None and self.inbox and (self._idle or isinstance(self.inbox[0], Turn)):
            return self.inbox.popleft()
        return None

    def work(self, command: Command | None) -> None:
        """One burst of work, without the lock: `command`, which `next_command` gave, or what is under way."""
        try:
            if self._running is not None:
                self._advance(self._running)
            elif command is not None:
                self._take(command)
            else:
                self._idle = not self._listener.work()
                self._turn.heard = self._listener.transcript
        except Exception as error:
            self._fail(error)

    def _take(self, command: Command) -> None:
        match command:
            case Turn():
                self._turn, self._samples, self._broken = command, 0, None
                self._listener.begin(command.history)
            case Listen():
                if self._broken is None:
                    self._listener.listen(command.pcm)
                    self._samples += len(command.pcm)
                    self._idle = False
            case Answer():
                self._start(command)

    def _start(self, answer: Answer) -> None:
        generation = answer.generation
        if generation.over:
            return
        if self._broken is not None:
            generation.finish("failed", self._broken)
            return
        request = generation.request
        self._spent()  # what was spent on listening is nobody's waiting
        try:
            answering = self._pieces(request, answer.seed)
        except SpeechGPTGenError as error:
            generation.finish("failed", one_line(error))
            return
        self._running = _Running(
            answer,
            answering,
            BlockCutter(self._bundle.config.blocks),
            transcript=self._listener.transcript,
            listened=self._samples > 0 and request.kind in ("reply", "transcribe") and request.text is None,
        )
        if request.kind != "transcribe" and request.speak:
            self._speak(SpeechJob(answer, (), 0))

    def _pieces(self, request: Request, seed: int) -> Answering:
        if request.kind == "say":
            return self._listener.say(request.text or "", request.sampling, seed)
        if request.kind == "transcribe":
            return self._listener.transcribe()
        if request.kind == "convert":
            return self._listener.convert()
        mode = request.mode if request.speak else "text"
        if request.text is not None:
            return self._listener.reply_to(request.text, mode, request.sampling, seed, request.instructions)
        return self._listener.reply(mode, request.sampling, seed, request.instructions)

    def _advance(self, running: _Running) -> None:
        generation, blocks = running.answer.generation, running.blocks
        for _ in range(BURST):
            if running.blocks > blocks:
                return None  # a block is to become sound before the next unit is made
            if generation.over:
                return self._stop(running)
            piece = next(running.pieces, None)
            if piece is None or (isinstance(piece, pieces.Word) and not generation.request.speak):
                return self._end(running, length_reached=self._listener.cut_short)
            self._give(running, piece)
            if running.units >= max(1, round(generation.request.max_seconds * 50)):
                return self._end(running, length_reached=True)

    def _give(self, running: _Running, piece: pieces.Piece) -> None:
        generation = running.answer.generation
        if isinstance(piece, pieces.Transcript):
            running.transcript = piece.text
            return
        self._settle_transcript(running)
        generation.mark("first_token")
        match piece:
            case pieces.Text(text):
                generation.put(Text(text))
            case pieces.Word(text, frame):
                if generation.request.mode == "direct" and generation.request.kind == "reply":
                    generation.put(Text(" " + text if running.words else text))
                running.words += 1
                generation.put(Word(text, frame))
            case pieces.Unit(index):
                generation.mark("first_unit")
                running.units += 1
                self._send(running, running.cutter.push(index))

    def _settle_transcript(self, running: _Running) -> None:
        """Say once, before the answer, what was heard in the end."""
        if running.listened:
            running.listened = False
            self._turn.heard = running.transcript
            running.answer.generation.mark("transcript")
            running.answer.generation.put(Transcript(running.transcript, final=True))

    def _send(self, running: _Running, units: tuple[int, ...] | None) -> None:
        if units is not None:
            running.answer.generation.mark("first_block")
            for part, seconds in self._spent().items():
                running.answer.generation.spend(part, seconds)
            self._speak(SpeechJob(running.answer, units, running.blocks))
            running.blocks += 1

    def _end(self, running: _Running, *, length_reached: bool) -> None:
        self._settle_transcript(running)
        self._send(running, running.cutter.finish())
        if running.blocks:  # the speaking thread ends what it speaks, after the last block
            self._speak(SpeechJob(running.answer, None, running.blocks, length_reached))
        else:
            running.answer.generation.finish("length" if length_reached else "completed")
        self._stop(running)

    def _stop(self, running: _Running) -> None:
        """Close the answer, which rewinds the turn to where the answer began."""
        self._running = None
        running.pieces.close()

    def _fail(self, error: Exception) -> None:
        """End what runs with the reason. A turn that can't go on stays broken until the next one begins."""
        reason = one_line(error)
        running, self._running = self._running, None
        if running is not None:
            running.answer.generation.finish("failed", reason)
        if running is None or not isinstance(error, SpeechGPTGenError):
            self._broken = reason
            self._idle = True
        if not isinstance(error, SpeechGPTGenError):
            # Nobody knows what state the error left behind.
            self._listener = Listener(self._bundle, self._decoder, self._ear)

    def _due_running(self, running: _Running) -> float:
        generation = running.answer.generation
        ahead = generation.request.max_ahead_seconds
        spoken = running.units * 0.02
        if ahead is None or spoken < ahead or generation.over:
            return ALREADY
        if generation.audible_since is None:
            return self._now() + 0.05
        return generation.audible_since + spoken - ahead


def one_line(error: Exception) -> str:
    """What a listener is told of an error; one that is not the user's is logged with its traceback."""
    if isinstance(error, torch.OutOfMemoryError):
        log.error("the device's memory is full", exc_info=error)
        return "the device's memory is full: run with fewer slots or a shorter context"
    if not isinstance(error, SpeechGPTGenError):
        log.error("the engine failed", exc_info=error)
        return " ".join(f"internal error: {type(error).__name__}: {error}".split())
    return " ".join(str(error).split())
