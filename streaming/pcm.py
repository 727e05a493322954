"""Sample formats at the doors: linear PCM and G.711's 8-bit mu-law and A-law, to and from float32 in [-1, 1].

G.711 (ITU-T, 1988; the same codes as the ITU's software tool library G.191) is computed, not looked up: a code is a
sign, a segment (the exponent) and four bits of mantissa. Negative samples count from -1 downwards (one's complement),
so that both signs use the same intervals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..models.audio import MAX_CHANNELS
from ..models.errors import AudioError
from .frames import Pcm

_MU_BIAS = 33
"""Added to a 14-bit magnitude so that every mu-law segment begins at a power of two."""

_MU_LARGEST = 0x1FFF
"""The largest biased magnitude that has a code; louder samples get the same."""


def to_int16(pcm: Pcm) -> NDArray[np.int16]:
    """Round to 16 bits, (N,) to (N,); what lies outside [-1, 1) is clipped."""
    scaled: Pcm = np.rint(pcm * np.float32(32768))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def from_int16(values: NDArray[np.int16]) -> Pcm:
    """16-bit samples as float32 in [-1, 1), (N,) to (N,); `to_int16` gives exactly the same samples back."""
    return values.astype(np.float32) / np.float32(32768)


def to_pcm16(pcm: Pcm) -> bytes:
    """Little-endian 16-bit PCM, two bytes a sample."""
    return to_int16(pcm).astype("<i2", copy=False).tobytes()


def from_pcm16(data: bytes) -> Pcm:
    """Audio (N,) of 2 N bytes of little-endian 16-bit PCM.

    Raises:
        AudioError: half a sample at the end.
    """
    if len(data) % 2:
        raise AudioError(f"{len(data)} bytes are not whole 16-bit samples; send an even number of bytes")
    return from_int16(np.frombuffer(data, "<i2"))


def to_mulaw(pcm: Pcm) -> bytes:
    """G.711 mu-law, one byte a sample."""
    value = to_int16(pcm).astype(np.int32)
    magnitude = np.minimum((_magnitude(value) >> 2) + _MU_BIAS, _MU_LARGEST)
    exponent = _log2(magnitude) - 5
    mantissa = (magnitude >> (exponent + 1)) & 0x0F
    sign = np.where(value < 0, 0x80, 0)
    code: NDArray[np.int32] = ~(sign | (exponent << 4) | mantissa) & 0xFF
    return code.astype(np.uint8).tobytes()


def from_mulaw(data: bytes) -> Pcm:
    """Audio (N,) of N bytes of G.711 mu-law."""
    code = ~np.frombuffer(data, np.uint8).astype(np.int32) & 0xFF
    exponent = (code >> 4) & 0x07
    magnitude = (((((code & 0x0F) << 1) + _MU_BIAS) << exponent) - _MU_BIAS) << 2
    return from_int16(np.where(code & 0x80, -magnitude, magnitude).astype(np.int16))


def to_alaw(pcm: Pcm) -> bytes:
    """G.711 A-law, one byte a sample."""
    value = to_int16(pcm).astype(np.int32)
    magnitude = _magnitude(value) >> 4
    exponent = np.maximum(_log2(np.maximum(magnitude, 1)) - 3, 0)
    mantissa = (magnitude >> np.maximum(exponent - 1, 0)) & 0x0F
    sign = np.where(value < 0, 0, 0x80)
    code: NDArray[np.int32] = (sign | (exponent << 4) | mantissa) ^ 0x55
    return code.astype(np.uint8).tobytes()


def from_alaw(data: bytes) -> Pcm:
    """Audio (N,) of N bytes of G.711 A-law."""
    code = np.frombuffer(data, np.uint8).astype(np.int32) ^ 0x55
    exponent = (code >> 4) & 0x07
    linear = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, linear, (linear + 0x100) << np.maximum(exponent - 1, 0))
    return from_int16(np.where(code & 0x80, magnitude, -magnitude).astype(np.int16))


def _magnitude(value: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.where(value < 0, ~value, value)


def _log2(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """floor(log2(v)) of whole numbers from 1, exactly."""
    return (np.frexp(values)[1] - 1).astype(np.int32)


def from_linear(data: bytes, width: int, channels: int) -> Pcm:
    """Audio (N,) of interleaved signed little-endian integers, `width` bytes (1 to 4) each; channels are averaged.

    Raises:
        AudioError: bytes that are not whole frames, or a format that does not exist.
    """
    if not 1 <= width <= 4 or not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(
            f"{8 * width} bits in {channels} channels cannot be read; give 8 to 32 in at most {MAX_CHANNELS}"
        )
    if len(data) % (width * channels):
        raise AudioError(f"{len(data)} bytes are not whole frames of {channels} channels of {width} bytes")
    octets = np.frombuffer(data, np.uint8).reshape(-1, width)
    wide = np.zeros((len(octets), 4), np.uint8)
    wide[:, 4 - width :] = octets
    values: NDArray[np.float64] = wide.view("<i4").reshape(-1, channels) / np.float64(2**31)
    mono: Pcm = values.mean(axis=1).astype(np.float32)
    return mono
