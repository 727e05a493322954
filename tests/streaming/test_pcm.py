"""Sample formats against the definitions, for every possible value."""

import numpy as np
import pytest

from speechgpt_gen.models.errors import AudioError
from speechgpt_gen.streaming import pcm as p

EVERY = np.arange(-32768, 32768).astype(np.int16)


def mulaw_code(value: int) -> int:
    """G.711 mu-law step by step: find the segment by halving."""
    magnitude = min(((~value if value < 0 else value) >> 2) + 33, 0x1FFF)
    segment = 0
    while magnitude > 0x3F:
        magnitude >>= 1
        segment += 1
    return 0xFF - ((0x80 if value < 0 else 0) + 16 * segment + (magnitude >> 1) % 16)


def alaw_code(value: int) -> int:
    """G.711 A-law step by step."""
    magnitude = (~value if value < 0 else value) >> 4
    segment = 0
    if magnitude > 15:
        segment = 1
        while magnitude > 31:
            magnitude >>= 1
            segment += 1
    return ((0 if value < 0 else 0x80) + 16 * segment + magnitude % 16) ^ 0x55


def test_pcm16_round_trip_is_exact() -> None:
    data = EVERY.astype("<i2").tobytes()
    audio = p.from_pcm16(data)
    assert audio.dtype == np.float32
    assert (audio.min(), audio.max()) == (-1, 32767 / 32768)
    assert p.to_pcm16(audio) == data


def test_pcm16_rounds_and_clips() -> None:
    audio = np.array([0.0, 1.4 / 32768, 1.6 / 32768, 1.0, 7.0, -1.0, -7.0], np.float32)
    assert p.to_int16(audio).tolist() == [0, 1, 2, 32767, 32767, -32768, -32768]
    assert p.to_pcm16(np.array([1 / 32768], np.float32)) == b"\x01\x00"


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(AudioError, match="3 bytes"):
        p.from_pcm16(b"abc")


def test_mulaw_codes() -> None:
    assert list(p.to_mulaw(p.from_int16(EVERY))) == [mulaw_code(int(value)) for value in EVERY]
    levels = p.to_int16(p.from_mulaw(bytes(range(256))))
    # The first and last levels of each sign as the standard lists them (14 bits, here shifted to 16).
    assert [levels[code] // 4 for code in (0x80, 0x81, 0x8F, 0x90, 0xFE, 0xFF)] == [8031, 7775, 4191, 3999, 2, 0]
    assert np.array_equal(levels[:128], -levels[128:])


def test_alaw_codes() -> None:
    assert list(p.to_alaw(p.from_int16(EVERY))) == [alaw_code(int(value)) for value in EVERY]
    levels = p.to_int16(p.from_alaw(bytes(range(256))))
    assert [levels[code ^ 0x55] // 8 for code in (0xFF, 0xFE, 0xF0, 0xEF, 0x81, 0x80)] == [4032, 3904, 2112, 2016, 3, 1]
    assert np.array_equal(levels[:128], -levels[128:])


@pytest.mark.parametrize(("encode", "decode"), [(p.to_mulaw, p.from_mulaw), (p.to_alaw, p.from_alaw)])
def test_g711_is_a_close_and_stable_copy(encode, decode) -> None:  # type: ignore[no-untyped-def]
    audio = p.from_int16(EVERY)
    copy = decode(encode(audio))
    # Half of a segment's sixteenth, and what one's complement and the 14 bits take.
    assert np.all(np.abs(copy - audio) <= (np.abs(audio) + 132 / 32768) / 32 + 4 / 32768)
    assert np.array_equal(decode(encode(copy)), copy)
    assert len(decode(b"")) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_linear_pcm_of_any_width(width):
    top = 2 ** (8 * width - 1)
    values = np.array([0, top - 1, -top, top // 2], "<i8")
    data = values.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    np.testing.assert_allclose(p.from_linear(data, width, 1), [0, (top - 1) / top, -1, 0.5], atol=1e-7)


def test_channels_are_averaged():
    data = np.array([[8192, 16384], [-8192, 8192]], "<i2").tobytes()
    np.testing.assert_allclose(p.from_linear(data, 2, 2), [0.375, 0.0])


@pytest.mark.parametrize(("data", "width", "channels"), [(b"123", 2, 1), (b"12", 2, 2), (b"", 5, 1), (b"", 2, 0)])
def test_linear_pcm_that_is_none(data, width, channels):
    with pytest.raises(AudioError):
        p.from_linear(data, width, channels)
