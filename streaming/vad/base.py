"""What every voice activity detector can do."""

from __future__ import annotations

from typing import ClassVar, Protocol

from ..frames import Pcm


class Vad(Protocol):
    """Judges one stream of 16 kHz audio, window after window, remembering what came before.

    Attributes:
        window: samples of one judgement; whoever calls cuts the audio (`frames.Framer`).
    """

    window: ClassVar[int]

    def __init__(self) -> None: ...

    def speech(self, pcm: Pcm) -> float:
        """How probably somebody speaks in the next window, (window,): 0 to 1."""
        ...

    def reset(self) -> None:
        """Forget the stream; the next window is the first of a new one."""
        ...
