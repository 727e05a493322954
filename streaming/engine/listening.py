"""The language model's thread: every slot in turn gets one small burst of work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain

import torch

from .one_at_a_time import OneAtATime
from .slots import Command, Slot
from .worker import Worker


class ListeningThread(Worker):
    """Runs the slots, round robin. `changed` guards their inboxes and is notified of every command. turns: taken with
    the speaking thread, where both compute on the same cores."""

    def __init__(
        self,
        slots: Sequence[Slot],
        changed: threading.Condition,
        now: Callable[[], float],
        turns: OneAtATime | None = None,
    ) -> None:
        super().__init__("listening", changed)
        self._slots = slots
        self._turn = nullcontext if turns is None else turns.words
        self._now = now
        self._next = 0

    def _run(self) -> None:
        torch.set_num_threads(1)
        while (due := self._wait()) is not None:
            slot, command = due
            with self._turn():
                slot.work(command)

    def _wait(self) -> tuple[Slot, Command | None] | None:
        """The next slot that has work to do; None when the thread is to end."""
        with self._changed:
            while not self._stopping:
                now, soonest = self._now(), float("inf")
                for index in chain(range(self._next, len(self._slots)), range(self._next)):
                    slot = self._slots[index]
                    when = slot.due()
                    if when is None:
                        continue
                    if when <= now:
                        self._next = (index + 1) % len(self._slots)
                        return slot, slot.next_command()
                    soonest = min(soonest, when)
                self._changed.wait(None if soonest == float("inf") else soonest - now)
        return None
