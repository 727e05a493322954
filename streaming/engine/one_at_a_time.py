"""On a CPU one of the engine's threads computes at a time.

A unit is hundreds of small operations, and a thread of Python takes the interpreter's lock anew after each of them. Two
threads that compute side by side wait for each other hundreds of times a unit: nothing is done sooner, processor time
is spent on waiting, and the first sound comes later (`docs/benchmarks.md` has figures).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class OneAtATime:
    """Takes turns. Sound goes before words: whoever listens waits for it, and it is quicker made than its units."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._sounds = 0

    @contextmanager
    def sound(self) -> Iterator[None]:
        """To make sound, as soon as whoever computes is done."""
        with self._changed:
            self._sounds += 1
            self._changed.wait_for(lambda: not self._taken)
            self._sounds -= 1
            self._taken = True
        yield from self._released()

    @contextmanager
    def words(self) -> Iterator[None]:
        """To run the language model, when no sound is to be made."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._sounds)
            self._taken = True
        yield from self._released()

    def _released(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
