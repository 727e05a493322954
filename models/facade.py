"""SpeechGPT-Gen in five methods: voice, say, convert, transcribe, reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from .audio import AudioSource, load_audio
from .bundle import Bundle, load_bundle
from .generation import Block, BlockCutter, Listener, Speaker, make_voice, speak_units, units_of
from .semantic.layout import Mode
from .semantic.pieces import Message, Piece, Transcript, Unit, Word
from .semantic.sampling import SamplingOptions
from .semantic.vocabulary import N_UNITS
from .voice import Voice


@dataclass(frozen=True, eq=False)
class Chunk:
    """A stretch of speech.

    pcm: float32 (320 * (end_frame - start_frame),), 16 kHz, in [-1, 1]. start_frame, end_frame: 20 ms frames since the
    utterance began. text: the words that begin in it, joined by spaces. units: one per frame (RVQ-1 indices).
    transcript: for `reply`, what was understood of the question (in the first chunk). detail: of each unit, 0 for none
    (`speech_tokenizer/detail.py`).
    """

    pcm: NDArray[np.float32]
    start_frame: int
    end_frame: int
    text: str = ""
    units: tuple[int, ...] = ()
    transcript: str = ""
    detail: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_frame - self.start_frame) * 0.02


def join(chunks: Iterable[Chunk]) -> Chunk:
    """Consecutive chunks as one; of none an empty one at frame 0."""
    chunks = list(chunks)
    return Chunk(
        np.concatenate([np.zeros(0, np.float32), *(chunk.pcm for chunk in chunks)]),
        chunks[0].start_frame if chunks else 0,
        chunks[-1].end_frame if chunks else 0,
        " ".join(chunk.text for chunk in chunks if chunk.text),
        tuple(unit for chunk in chunks for unit in chunk.units),
        "".join(chunk.transcript for chunk in chunks),
        tuple(detail for chunk in chunks for detail in chunk.detail),
    )


def _chunk(block: Block, text: str = "", transcript: str = "") -> Chunk:
    detail, units = zip(*(divmod(unit, N_UNITS) for unit in block.units), strict=True)
    return Chunk(block.pcm, block.start_frame, block.end_frame, text, units, transcript, detail)


class SpeechGPTGen:
    """The three models of one bundle, used one call at a time: a call ends an earlier one's stream that was not read
    to its end. (A server uses an engine, which interleaves many conversations.)

    Audio in is a path, a file in memory or (array, rate), see `load_audio`; audio out is 16 kHz float32 in chunks.
    Every method is deterministic: the same input and seed give the same sound, streamed or not. Wrong input raises a
    SpeechGPTGenError of one line. Source: SpeechGPT-Gen (arXiv 2401.13527).
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._listener = Listener(bundle)
        self._speaker = Speaker(bundle)

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = "nano",
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
    ) -> SpeechGPTGen:
        """Load a model: "nano" (trained, in the package), "tiny" (random, for tests) or a folder.

        dtype: a torch dtype or its name, or "int8", which is the quickest on a CPU.
        Raises ModelNotFoundError, CheckpointError or ConfigError.
        """
        return cls(load_bundle(name_or_folder, device, str(dtype).removeprefix("torch.")))

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the model's own voices; the first is the default."""
        return tuple(self.bundle.voices)

    def voice(self, audio: AudioSource, name: str = "voice") -> Voice:
        """A voice from a recording of somebody: 0.5 s at least, of more than 3 s the loudest three are used.

        Raises AudioError.
        """
        return make_voice(self.bundle, load_audio(audio), name)

    @overload
    def say(
        self,
        text: str,
        voice: str | Voice | None = None,
        *,
        stream: Literal[True],
        seed: int = ...,
        sampling: SamplingOptions | None = ...,
        max_seconds: float = ...,
    ) -> Iterator[Chunk]: ...
    @overload
    def say(
        self,
        text: str,
        voice: str | Voice | None = None,
        *,
        stream: Literal[False] = ...,
        seed: int = ...,
        sampling: SamplingOptions | None = ...,
        max_seconds: float = ...,
    ) -> Chunk: ...
    def say(
        self,
        text: str,
        voice: str | Voice | None = None,
        *,
        stream: bool = False,
        seed: int = 0,
        sampling: SamplingOptions | None = None,
        max_seconds: float = 60.0,
    ) -> Chunk | Iterator[Chunk]:
        """Speak English text in a voice (zero-shot text to speech, paper section 4.3).

        stream: give chunks as they come instead of one. max_seconds: what would be longer is cut there.
        Raises TextError for text without a letter or digit, ConfigError for an unknown voice.
        """
        chosen = self.bundle.voice(voice)
        self._listener.begin([])
        return self._deliver(self._listener.say(text, sampling, seed), chosen, seed, max_seconds, stream)

    @overload
    def convert(
        self, audio: AudioSource, voice: str | Voice | None = None, *, stream: Literal[True], seed: int = ...
    ) -> Iterator[Chunk]: ...
    @overload
    def convert(
        self, audio: AudioSource, voice: str | Voice | None = None, *, stream: Literal[False] = ..., seed: int = ...
    ) -> Chunk: ...
    def convert(
        self, audio: AudioSource, voice: str | Voice | None = None, *, stream: bool = False, seed: int = 0
    ) -> Chunk | Iterator[Chunk]:
        """Speak a recording again in another voice: its units, that voice's timbre (paper section 4.4).

        Raises AudioError, ConfigError.
        """
        chosen = self.bundle.voice(voice)
        units = units_of(self.bundle, load_audio(audio))
        blocks = speak_units(self._speaker, units, self.bundle.config.blocks, chosen, seed)
        chunks = map(_chunk, blocks)
        return chunks if stream else join(chunks)

    def transcribe(self, audio: AudioSource) -> str:
        """English text of a recording, as the model understands it. Raises AudioError."""
        self._hear(audio, [])
        return next(piece.text for piece in self._listener.transcribe() if isinstance(piece, Transcript))

    @overload
    def reply(
        self,
        audio: AudioSource,
        history: Sequence[Message] = ...,
        voice: str | Voice | None = None,
        *,
        mode: Mode = ...,
        stream: Literal[True],
        seed: int = ...,
        sampling: SamplingOptions | None = ...,
        max_seconds: float = ...,
    ) -> Iterator[Chunk]: ...
    @overload
    def reply(
        self,
        audio: AudioSource,
        history: Sequence[Message] = ...,
        voice: str | Voice | None = None,
        *,
        mode: Mode = ...,
        stream: Literal[False] = ...,
        seed: int = ...,
        sampling: SamplingOptions | None = ...,
        max_seconds: float = ...,
    ) -> Chunk: ...
    def reply(
        self,
        audio: AudioSource,
        history: Sequence[Message] = (),
        voice: str | Voice | None = None,
        *,
        mode: Mode = "text",
        stream: bool = False,
        seed: int = 0,
        sampling: SamplingOptions | None = None,
        max_seconds: float = 60.0,
    ) -> Chunk | Iterator[Chunk]:
        """Answer a spoken question (paper section 4.5).

        history: earlier turns as text, oldest first. mode: "text" plans the answer as text first (chain of modality),
        "direct" speaks at once. The rest as in `say`. Raises AudioError, ConfigError.
        """
        chosen = self.bundle.voice(voice)
        self._hear(audio, history)
        return self._deliver(self._listener.reply(mode, sampling, seed), chosen, seed, max_seconds, stream)

    def _hear(self, audio: AudioSource, history: Sequence[Message]) -> None:
        pcm = load_audio(audio, max_seconds=self._listener.longest)
        self._listener.begin(history)
        self._listener.listen(pcm)
        while self._listener.work():
            pass

    def _deliver(
        self, pieces: Iterator[Piece], voice: Voice, seed: int, max_seconds: float, stream: bool
    ) -> Chunk | Iterator[Chunk]:
        chunks = self._chunks(pieces, voice, seed, max_seconds)
        return chunks if stream else join(chunks)

    def _chunks(self, pieces: Iterator[Piece], voice: Voice, seed: int, max_seconds: float) -> Iterator[Chunk]:
        utterance = self._speaker.open(voice, seed)
        cutter = BlockCutter(self.bundle.config.blocks)
        transcript = ""
        words: list[Word] = []
        left = max(1, round(max_seconds * 50))

        def chunk(block: Block) -> Chunk:
            nonlocal transcript
            inside = [word.text for word in words if block.start_frame <= word.frame < block.end_frame]
            heard, transcript = transcript, ""
            return _chunk(block, " ".join(inside), heard)

        for piece in pieces:
            match piece:
                case Transcript(text):
                    transcript = text
                case Word():
                    words.append(piece)
                case Unit(index):
                    if (units := cutter.push(index)) is not None:
                        yield chunk(utterance.speak(units))
                    left -= 1
            if left == 0:
                break
        if (units := cutter.finish()) is not None:
            yield chunk(utterance.speak(units))
