"""The door for recordings: files and arrays of any rate in, 16 kHz mono float32 inside, WAV out."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import AudioError

SAMPLE_RATE = 16_000
HOP = 320
"""Samples of one frame, which is one unit: 20 ms."""

AudioSource = str | Path | BytesIO | tuple[NDArray[Any], int]
"""A path, a file in memory, or (array (N,) or (N, channels), sample rate in Hz)."""

MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 4_000, 384_000
MAX_VALUES = 2**26
"""Samples of all channels of a file: 11 minutes of 48 kHz stereo. A small compressed file may hold any number."""


def load_audio(source: AudioSource, *, max_seconds: float = 600.0) -> NDArray[np.float32]:
    """Read a recording as 16 kHz mono.

    source: path or BytesIO of any format libsndfile reads (WAV, FLAC, Ogg, MP3), or an array with its rate: floats in
    [-1, 1] or signed integers of full scale. Returns float32 (N,) in [-1, 1], N >= 1; channels are averaged.
    Raises AudioError, in one line, for what is missing, unreadable, cut short, empty, not finite or too long.
    """
    if isinstance(source, tuple):
        name = "the audio array"
        pcm, rate = _from_array(source)
    else:
        name = f"the audio file {str(source)!r}" if isinstance(source, str | Path) else "the audio file"
        pcm, rate = _from_file(source, name, max_seconds)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name} has a sample rate of {rate} Hz: give {MIN_RATE} to {MAX_RATE} Hz")
    if len(pcm) == 0:
        raise AudioError(f"{name} holds no samples: give at least one 20 ms frame of sound")
    if len(pcm) > max_seconds * rate:
        raise AudioError(f"{name} lasts {len(pcm) / rate:.1f} s: give at most {max_seconds:g} s")
    if not np.isfinite(pcm).all():
        raise AudioError(f"{name} holds NaN or infinite samples: repair it first")
    mono = pcm if pcm.ndim == 1 else pcm.mean(axis=1)
    if (peak := float(np.abs(mono).max())) > 16.0:
        raise AudioError(f"{name} has a peak of {peak:.0f}: scale floats to [-1, 1]")
    if rate != SAMPLE_RATE:
        import soxr  # here as soundfile below: a machine that only measures engines has neither

        mono = soxr.resample(mono, rate, SAMPLE_RATE)
        if len(mono) == 0:
            raise AudioError(f"{name} has {len(pcm)} samples at {rate} Hz, not one at 16 kHz: give at least 20 ms")
    return np.ascontiguousarray(np.clip(mono, -1.0, 1.0), dtype=np.float32)


def write_wav(target: str | Path | BinaryIO, pcm: NDArray[np.float32]) -> None:
    """Write 16 kHz mono 16-bit WAV. pcm: float32 (N,) in [-1, 1]; louder samples clip. Raises AudioError."""
    import soundfile as sf

    try:
        sf.write(target, np.clip(pcm, -1.0, 1.0), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"cannot write the audio file {str(target)!r}: {_reason(error)}") from None


def _from_array(source: tuple[NDArray[Any], int]) -> tuple[NDArray[np.float32], int]:
    array, rate = source
    array = np.asarray(array)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] > MAX_CHANNELS):
        raise AudioError(f"the audio array has shape {array.shape}: give (samples,) or (samples, channels)")
    if np.issubdtype(array.dtype, np.signedinteger):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32), int(rate)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"the audio array is of {array.dtype}: give floats in [-1, 1] or signed integers")
    return array.astype(np.float32, copy=False), int(rate)


def _from_file(source: str | Path | BytesIO, name: str, max_seconds: float) -> tuple[NDArray[np.float32], int]:
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise AudioError(f"{name} does not exist" if not path.exists() else f"{name} is not a file")
        try:
            with path.open("rb") as file:
                return _read(file, path.stat().st_size, name, max_seconds)
        except OSError as error:
            raise AudioError(f"{name} cannot be opened: {_reason(error)}") from None
    source.seek(0)
    return _read(source, len(source.getbuffer()), name, max_seconds)


def _read(file: BinaryIO, size: int, name: str, max_seconds: float) -> tuple[NDArray[np.float32], int]:
    if size == 0:
        raise AudioError(f"{name} is empty: 0 bytes")
    if (missing := _missing_wav_bytes(file, size)) > 0:
        raise AudioError(f"{name} is cut short: {missing} bytes that its header promises are missing")
    file.seek(0)
    import soundfile as sf

    try:
        with sf.SoundFile(file) as sound:
            # Asked before decoding: an hour of compressed sound would fill the memory first.
            if sound.frames > max_seconds * sound.samplerate:
                seconds = sound.frames / sound.samplerate
                raise AudioError(f"{name} lasts {seconds:.1f} s: give at most {max_seconds:g} s")
            if sound.frames * sound.channels > MAX_VALUES:
                raise AudioError(f"{name} has {sound.frames} samples in {sound.channels} channels: lower the rate")
            if sound.channels > MAX_CHANNELS:
                raise AudioError(f"{name} has {sound.channels} channels: give at most {MAX_CHANNELS}")
            pcm = sound.read(dtype="float32", always_2d=True)
            # The length of an MP3 that was written as a stream is an estimate.
            if len(pcm) < sound.frames and sound.format != "MP3":
                raise AudioError(f"{name} is cut short: {len(pcm)} of {sound.frames} samples could be read")
            return pcm, sound.samplerate
    except (sf.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{name} is not a recording that can be read: {_reason(error)}") from None


def _missing_wav_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes of a RIFF file's data chunk are not there: libsndfile reads such a file without a word.

    Sizes of 0 or near 2^31 and 2^32 are those of a stream whose length was not known when its header was written.
    """
    file.seek(0)
    if file.read(4) != b"RIFF":
        return 0
    file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind == b"data":
            if length == 0 or length >= 0x7FFF_0000:
                return 0
            return int(file.tell() + length - size)
        file.seek(length + length % 2, 1)
    return 0


def _reason(error: Exception) -> str:
    """An exception's words on one line, without the file object's repr that soundfile puts in front."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split(">: ")[-1].split()).rstrip(".") or type(error).__name__
