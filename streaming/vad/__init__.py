"""Voice activity detection: is somebody speaking in this window of audio?"""

from __future__ import annotations

from ...models.errors import ConfigError
from .base import Vad
from .silero import SileroVad
from .webrtc import WebRtcVad

__all__ = ["VADS", "SileroVad", "Vad", "WebRtcVad", "make_vad"]

VADS: dict[str, type[Vad]] = {"silero": SileroVad, "webrtc": WebRtcVad}


def make_vad(name: str) -> Vad:
    """A fresh detector for one stream of audio.

    Args:
        name: `silero` (a small network, sure in noise) or `webrtc` (statistics: hardly any work, takes some noise for
            speech).

    Raises:
        ConfigError: no such detector.
    """
    if name not in VADS:
        raise ConfigError(f"there is no voice activity detector {name!r}; choose one of: {', '.join(VADS)}")
    return VADS[name]()
