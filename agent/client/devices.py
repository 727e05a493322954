"""The sound card, by sounddevice (PortAudio): a microphone to speak from and a loudspeaker to hear on.

Neither removes echo: where loudspeaker and microphone share a room, use headphones, or the agent hears itself.
"""

import threading
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import AudioError, ConfigError
from ...streaming.frames import SAMPLE_RATE, SILENCE_DB, Pcm, dbfs, samples
from ...streaming.resample import StreamResampler
from .playback import Playback

_BACKLOG = samples(0.1)
"""Sound from the microphone that may wait: its clock and the sender's differ a little, and a delay would grow."""

_BLOCK = samples(0.01)

_LATENCY = 0.05
"""Seconds of the sound card's own buffer. PortAudio's "low" is 9 ms, which Python on a busy machine does not keep."""


class Microphone:
    """A `Source`: the sound card's microphone. Open while its `with` block lasts.

    Args:
        device: name or number of the device; None takes the system's default.

    Attributes:
        muted: gives silence instead.
        level: of the last sound, dBFS.

    Raises:
        ConfigError: sounddevice or PortAudio is not installed.
        AudioError: there is no such microphone, or another program has it.
    """

    def __init__(self, device: str | int | None = None) -> None:
        self.muted = False
        self.level = SILENCE_DB
        self._lock = threading.Lock()
        self._waiting: Pcm = np.zeros(0, np.float32)
        self._stream = _open("InputStream", device, self._take)
        self._resampler = StreamResampler(int(self._stream.samplerate), SAMPLE_RATE)

    def pull(self, n: int) -> Pcm:
        with self._lock:
            out, self._waiting = self._waiting[:n], self._waiting[n:]
        if self.muted:
            out = np.zeros(0, np.float32)
        self.level = dbfs(out)
        return np.concatenate((out, np.zeros(n - len(out), np.float32)))

    def __enter__(self) -> "Microphone":
        _run(self._stream.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _take(self, sound: NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        """Called by PortAudio, on a thread of its own."""
        pcm = self._resampler.process(sound[:, 0].copy())
        with self._lock:
            self._waiting = np.concatenate((self._waiting, pcm))[-(len(pcm) + _BACKLOG) :]


class Speaker:
    """A `Sink`: the sound card's loudspeaker. Open while its `with` block lasts.

    Args:
        device: name or number of the device; None takes the system's default.

    Attributes:
        level: of the last sound, dBFS.

    Raises:
        ConfigError: sounddevice or PortAudio is not installed.
        AudioError: there is no such loudspeaker, or another program has it.
    """

    def __init__(self, device: str | int | None = None) -> None:
        self.level = SILENCE_DB
        self._lock = threading.Lock()
        self._playback = Playback(paced=False)
        self._stream = _open("OutputStream", device, self._give)
        self._resampler = StreamResampler(SAMPLE_RATE, int(self._stream.samplerate))
        self._ready: Pcm = np.zeros(0, np.float32)

    def begin(self, *, paced: bool) -> None:
        with self._lock:
            self._playback = Playback(paced=paced)

    def push(self, pcm: Pcm) -> None:
        with self._lock:
            self._playback.push(pcm)

    def expect(self, more: bool) -> None:
        with self._lock:
            self._playback.expect(more)

    def flush(self) -> int:
        with self._lock:
            return self._playback.flush()

    def __enter__(self) -> "Speaker":
        _run(self._stream.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _give(self, sound: NDArray[np.float32], frames: int, time: Any, status: Any) -> None:
        """Called by PortAudio, on a thread of its own."""
        while len(self._ready) < frames:
            with self._lock:
                pcm = self._playback.pull(_BLOCK)
            self.level = dbfs(pcm)
            self._ready = np.concatenate((self._ready, self._resampler.process(pcm)))
        sound[:, 0], self._ready = self._ready[:frames], self._ready[frames:]


def _open(kind: str, device: str | int | None, callback: Any) -> Any:
    try:
        import sounddevice
    except ImportError:
        raise ConfigError("a microphone and a loudspeaker need: pip install 'speechgpt-gen[audio]'") from None
    except OSError:
        raise ConfigError(
            "sounddevice finds no PortAudio: install it (Debian: apt-get install libportaudio2)"
        ) from None
    return _run(
        lambda: getattr(sounddevice, kind)(
            device=device, channels=1, dtype="float32", latency=_LATENCY, callback=callback
        )
    )


def _run(action: Any) -> Any:
    """PortAudio's complaints in one line; sounddevice raises ValueError for a device that is not there."""
    import sounddevice

    try:
        return action()
    except (sounddevice.PortAudioError, ValueError) as error:
        why = " ".join(str(error).split())
        raise AudioError(f"the sound card cannot be used ({why}): choose another device") from None
