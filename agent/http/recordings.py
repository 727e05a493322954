"""Uploaded recordings: whatever a browser, a phone or a tool makes, as 16 kHz mono, and cut where it is quiet."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from itertools import pairwise
from typing import Never

import av
import numpy as np
from av.audio.resampler import AudioResampler

from ...models.audio import load_audio
from ...models.errors import AudioError
from ...streaming.frames import SAMPLE_RATE, Pcm

_CHUNK_S = 15.0
"""The longest piece that is heard at a stretch: the model was trained on utterances, not on speeches."""

_STEP = SAMPLE_RATE // 10


async def read_recording(data: bytes, max_seconds: float) -> Pcm:
    """An uploaded file, (N,) at 16 kHz, read off the event loop. Raises AudioError, one line."""
    return await asyncio.to_thread(_read, data, max_seconds)


def phrases(pcm: Pcm) -> list[tuple[int, int]]:
    """Where a long recording is cut, as (begin, end) in samples: at its quietest 0.1 s between 7.5 and 15 s each."""
    longest = round(_CHUNK_S * SAMPLE_RATE)
    cuts = [0]
    while len(pcm) - cuts[-1] > longest:
        first = cuts[-1] + longest // 2
        steps = pcm[first : cuts[-1] + longest // _STEP * _STEP]
        energy = np.square(steps[: len(steps) // _STEP * _STEP].reshape(-1, _STEP)).sum(1)
        cuts.append(first + int(np.argmin(energy)) * _STEP + _STEP // 2)
    return list(pairwise([*cuts, len(pcm)]))


def _read(data: bytes, max_seconds: float) -> Pcm:
    container = _container(data)
    if container is None:
        return load_audio(io.BytesIO(data), max_seconds=max_seconds)
    return load_audio((_decode(data, container, max_seconds), SAMPLE_RATE), max_seconds=max_seconds)


def _container(data: bytes) -> str | None:
    """The format of what libsndfile can't read: recordings of browsers and phones, and FLAC written as a stream.

    It is named to the decoder instead of letting it guess: among the formats that it would guess are playlists, which
    make it open other files.
    """
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if data[4:8] == b"ftyp":
        return "mov"
    if data[:4] == b"fLaC" and int.from_bytes(data[21:26]) % 2**36 == 0:  # the number of samples is unknown
        return "flac"
    return None


def _decode(data: bytes, container: str, max_seconds: float) -> Pcm:
    limit = round(max_seconds * SAMPLE_RATE)
    pieces: list[Pcm] = []
    count = 0
    try:
        for pcm in _samples(data, container):
            pieces.append(pcm)
            count += len(pcm)
            if count > limit:
                raise AudioError(f"the audio file lasts longer than {max_seconds:g} s: send less")
    except (av.FFmpegError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AudioError(f"the audio file is not a recording that can be read: {reason}") from None
    if not pieces:
        raise AudioError("the audio file holds no samples: give at least one 20 ms frame of sound")
    return np.concatenate(pieces)


def _open_nothing(*_: object) -> Never:
    raise AudioError("the audio file refers to other files: send the sound itself")


def _samples(data: bytes, container: str) -> Iterator[Pcm]:
    """Decoded sound, mono at 16 kHz, piece by piece."""
    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(io.BytesIO(data), "r", format=container, io_open=_open_nothing) as file:
        if not file.streams.audio:
            raise AudioError("the audio file has no sound in it")
        for frame in file.decode(audio=0):
            for resampled in resampler.resample(frame):
                yield resampled.to_ndarray()[0]
        for resampled in resampler.resample(None):
            yield resampled.to_ndarray()[0]
