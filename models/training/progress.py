"""What a training run shows: a line of JSON a step, TensorBoard events and a progress bar where those are installed."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from ..audio import SAMPLE_RATE, write_wav

_LINE_EVERY = 10.0
"""Seconds between lines where there is no progress bar."""


class Watcher:
    """Appends to `folder/log.jsonl` and plays to `folder/valid.wav`; use it as a context and call it after each step. A
    quiet one shows nothing."""

    def __init__(self, folder: Path, done: int, total: int, *, quiet: bool = False) -> None:
        self.folder, self.total, self.quiet = folder, total, quiet
        log = Path(os.devnull) if quiet else folder / "log.jsonl"
        self._log = log.open("a")
        self._board: Any = None
        self._bar: Any = None
        self._spoke = 0.0
        if find_spec("tensorboard") and not quiet:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder))
        if find_spec("rich") and not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(folder.name, total=total, completed=done)

    def __enter__(self) -> Watcher:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        with suppress(OSError):  # of a full disk, which whoever wrote last was told of
            self._log.close()
        with suppress(OSError):
            if self._board is not None:
                self._board.close()

    def play(self, step: int, wav: Tensor) -> None:
        """Leave the sound (N,), 16 kHz, of step number `step` in place of the one before it."""
        if self.quiet:
            return
        write_wav(self.folder / "valid.wav", wav.numpy())
        if self._board is not None:
            self._board.add_audio("valid", wav.clamp(-1, 1), step, SAMPLE_RATE)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Show the values after step number `step`."""
        self._log.write(json.dumps({"step": step, **{name: round(value, 5) for name, value in values.items()}}) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"loss {values['loss']:.3f}")
        elif not self.quiet and (time.monotonic() - self._spoke > _LINE_EVERY or step == self.total):
            self._spoke = time.monotonic()
            terms = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"{self.folder.name} {step}/{self.total} {terms}", file=sys.stderr, flush=True)
