"""Where a command's speech goes: a WAV file, or standard output as it comes."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.errors import AudioError, ConfigError

RATE = 16_000


class Sink(Protocol):
    """Takes speech while its `with` block lasts."""

    def write(self, pcm: NDArray[np.float32]) -> None:
        """More speech, float32 (N,) at 16 kHz."""
        ...

    def __enter__(self) -> Sink: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_sink(output: str) -> Sink:
    """The sink for `-o OUTPUT`, checked before anything is computed.

    Raises:
        ConfigError: standard output is a terminal, or the file's folder does not exist.
    """
    if output == "-":
        if sys.stdout.isatty():
            raise ConfigError("standard output is a terminal: pipe the WAV somewhere, or give -o FILE.wav")
        return StreamSink(sys.stdout.buffer)
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in no folder that exists"
        raise ConfigError(f"output {output!r} {what}: give the name of a WAV file")
    return FileSink(path)


class FileSink:
    """A WAV file, written whole when all has come; after an error nothing is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]

    def write(self, pcm: NDArray[np.float32]) -> None:
        self._blocks.append(pcm)

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            from ...models.audio import write_wav

            write_wav(self._path, np.concatenate(self._blocks))


class StreamSink:
    """A WAV of unknown length on a pipe: the header's sizes are the largest there are, as players expect."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, pcm: NDArray[np.float32]) -> None:
        self._send(np.clip(np.round(pcm * 32768), -32768, 32767).astype("<i2").tobytes())

    def __enter__(self) -> StreamSink:
        riff = struct.pack("<4sI4s", b"RIFF", 0xFFFFFFFF, b"WAVE")
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
        self._send(riff + form + struct.pack("<4sI", b"data", 0xFFFFFFFF - 36))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _send(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise AudioError(f"cannot write to standard output: {error.strerror}") from None
