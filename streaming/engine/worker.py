"""What the engine's threads have in common: they wait for something to do until they are told to end."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
Job = Callable[[], None]


class Worker(ABC):
    """A thread. changed: guards what others give it, and is notified of it; by default one of its own."""

    def __init__(self, name: str, changed: threading.Condition | None = None) -> None:
        self._changed = changed or threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"speechgpt-gen {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is at, dropping what waits; blocks until it has."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """What the thread does, until `_stopping`."""


def job_of(function: Callable[[], T]) -> tuple[Job, Future[T]]:
    """A function as a job for another thread, and what will have become of it; cancelled, it does nothing."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    return run, future
