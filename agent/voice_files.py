"""Recorded voices on disk, so that they outlive the server.

What is kept is the recording, not the voice that the model made of it: another model, or a better one of the same name,
makes its own voice of it when it is first chosen.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..models.errors import ConfigError
from ..models.voice import MIN_VOICE_SECONDS
from ..streaming.frames import SAMPLE_RATE, Pcm
from ..streaming.pcm import from_int16, to_int16

log = logging.getLogger(__name__)

MAX_VOICE_SECONDS = 60.0
"""The longest recording that a voice is made of."""

_MAX_BYTES = round(2 * MAX_VOICE_SECONDS * SAMPLE_RATE) + 4096
_NAME = re.compile(r"voice_[0-9a-f]{20}\.safetensors")


class VoiceFiles:
    """One safetensors file for each voice: `pcm`, int16 (N,) at 16 kHz, and what people call it. Their times of
    modification tell which was used last. Only the owner may read them.

    A folder that cannot be written keeps nothing, and the log says so: the voices live on in memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def kept(self) -> list[tuple[str, str]]:
        """(id, name) of each voice, the least recently used first; unusable files are left out. No sound is read."""
        found = []
        for path in sorted(filter(_is_ours, self._folder.glob("voice_*.safetensors")), key=_used):
            try:
                with safe_open(path, framework="numpy") as file:
                    found.append((path.stem, _name(path, file)))
            except (OSError, ValueError, SafetensorError) as error:
                log.warning("the recorded voice in %s is left out: %s", path, error)
        return found

    def load(self, key: str) -> Pcm:
        """The recording of a voice, (N,) at 16 kHz. Raises ConfigError when it cannot be read any more."""
        path = self._path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                _name(path, file)
                return from_int16(file.get_tensor("pcm"))
        except (OSError, ValueError, SafetensorError) as error:
            log.warning("the recorded voice in %s cannot be read: %s", path, error)
            raise ConfigError(f"the recording of voice {key} cannot be read any more: record it anew") from None

    def save(self, key: str, name: str, pcm: Pcm) -> None:
        """Keep a voice's recording, (N,) at 16 kHz."""
        path, unfinished = self._path(key), self._folder / f"{key}.part"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(save({"pcm": to_int16(pcm)}, {"name": name}))
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            log.warning("the recorded voice %s is gone when the server stops: cannot write %s: %s", key, path, error)

    def used(self, key: str) -> None:
        """Note that a voice is used now."""
        with suppress(OSError):
            os.utime(self._path(key))

    def delete(self, key: str) -> None:
        """Forget a voice. One that cannot be deleted comes back at the next start, and the log says so."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            log.warning("the recorded voice %s stays on disk: %s", key, error)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def _is_ours(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def _used(path: Path) -> float:
    with suppress(OSError):  # another server may have forgotten it meanwhile
        return path.stat().st_mtime
    return 0.0


def _name(path: Path, file: Any) -> str:
    """What people call the voice in an open file. Raises ValueError where there is none in it, or too much."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("it is too large")
    pcm = file.get_slice("pcm")
    if pcm.get_dtype() != "I16" or len(pcm.get_shape()) != 1:
        raise ValueError(f"pcm is {pcm.get_dtype()} {pcm.get_shape()}, not I16 (N,)")
    if pcm.get_shape()[0] < MIN_VOICE_SECONDS * SAMPLE_RATE:
        raise ValueError("it is too short")
    name: str = (file.metadata() or {}).get("name", "")
    return name[:64] or "recorded voice"
