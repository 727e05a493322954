"""The decoding thread: what many conversations ask of one language model, in passes and bursts that they share.

Each conversation runs on a thread of its own and sees a `Decoder`; its calls become passes (fill, score) and streams
(draw) here. Every cycle makes one pass, answers' beginnings first, then one burst for all streams, so a new turn waits
for at most one burst and nobody starves. Joining and leaving happen between bursts and change no graph.

An error ends what caused it: a pass or burst that fails is repeated for each of its sequences alone.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from ...models.errors import EngineError
from ...models.semantic.slots import SLACK, Chunk, SlotModel
from .slot_decoder import Pass, SlotDecoder, Stream
from .slots import one_line
from .worker import Worker

log = logging.getLogger(__name__)

AHEAD = 32
"""Tokens that a stream may be drawn ahead of the conversation that takes them."""

_HOPELESS = 5
"""Errors in a row, with no success between, after which the device is given up."""


class DecodeLoop(Worker):
    """The thread that owns a SlotModel. now: seconds, monotonic."""

    def __init__(self, model: SlotModel, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__("decoding")
        self.model = model
        self._now = now
        self._passes: deque[Pass] = deque()
        self._making: list[Pass] = []
        self._streams: dict[int, Stream] = {}
        self._failures = 0

    def stop(self) -> None:
        """End the thread after its present cycle, and whoever waits for it with an EngineError."""
        super().stop()
        self._fail_all(EngineError("the engine has been stopped"))

    def decoder(self, slot: int) -> SlotDecoder:
        """The decoder that is slot `slot`."""
        return SlotDecoder(self, slot)

    @property
    def capacity(self) -> int:
        return self.model.options.capacity

    # Called on the conversations' threads

    def submit(self, wanted: Pass) -> None:
        """Queue a pass. Raises EngineError when its tokens do not fit or nobody works any more."""
        end = wanted.start + len(wanted.tokens)
        if end > self.capacity:
            raise EngineError(
                f"the conversation is longer than the model's {self.capacity} positions "
                f"({wanted.start} used, {len(wanted.tokens)} more wanted); start a new turn or ask for a shorter answer"
            )
        with self._changed:
            if self._stopping or self._failures >= _HOPELESS:
                raise EngineError("the engine's decoding has stopped working: restart the server")
            wanted.since = self._now()
            self._passes.append(wanted)
            self._changed.notify()

    def took(self, stream: Stream, count: int) -> None:
        """A conversation has taken tokens: there may be room for more."""
        with self._changed:
            before, stream.unread = stream.unread, stream.unread - count
            if before >= AHEAD > stream.unread:
                self._changed.notify()

    def close(self, stream: Stream) -> None:
        """Nobody wants more of a stream: its slot is free from the next burst on."""
        with self._changed:
            stream.closed = True
            if self._streams.get(stream.slot) is stream:
                del self._streams[stream.slot]

    # The thread

    def _run(self) -> None:
        if self.model.lane.device.type == "cpu":
            torch.set_num_threads(1)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._passes or self._running())
                if self._stopping:
                    return
            try:
                with self.model.lane.entered(), torch.inference_mode():
                    self.cycle()
                self._failures = 0
            except BaseException as error:  # whatever it is, the thread lives on and the others are told
                log.exception("a cycle of the decoding thread failed")
                self._failures += 1
                self._fail_all(EngineError(f"the engine's decoding failed: {' '.join(str(error).split())}"))

    def cycle(self) -> None:
        """One pass, if any waits, and one burst, if any stream runs."""
        with self._changed:
            self._making = self._choose()
        if self._making:
            self._make(self._making)
        with self._changed:
            self._making = []
            streams = self._running()
        if streams:
            self._burst(streams)

    def _running(self) -> list[Stream]:
        return [stream for stream in self._streams.values() if stream.unread < AHEAD]

    def _choose(self) -> list[Pass]:
        """Whose tokens go into the next pass: beginnings of answers before the rest, each in order of arrival."""
        self._passes = deque(each for each in self._passes if each.stream is None or not each.stream.closed)
        if not self._passes:
            return []
        waiting = sorted(self._passes, key=lambda each: each.stream is None)  # stable
        first = waiting[0]
        short = [each for each in waiting if len(each.tokens) <= SLACK]
        chosen = short[: self.model.most_rows] if first in short else [first]
        for each in chosen:
            self._passes.remove(each)
        return chosen

    def _make(self, passes: Sequence[Pass]) -> None:
        try:
            codes = self._pass(passes)
        except Exception as error:
            if len(passes) > 1:
                for each in passes:
                    self._make([each])
                return
            passes[0].fail(_told(error))
            return
        for each, (taken, told) in zip(passes, codes, strict=True):
            self._settle(each, taken, told)

    def _pass(self, passes: Sequence[Pass]) -> list[tuple[int, list[int]]]:
        """Tokens taken of each, and what the device says."""
        chunks = []
        for each in passes:
            count = self._fitting(each)
            if each.stream is not None and count == len(each.tokens):
                self.model.set(each.slot, each.stream.at)
            chunks.append(Chunk(each.slot, each.start, each.tokens[:count], each.stops[:count]))
        began = self._now()
        told = self.model.prefill(chunks).take()[0].tolist()
        self._account(passes, began, "prefill")
        return [(len(chunk.tokens), row) for chunk, row in zip(chunks, told, strict=True)]

    def _fitting(self, wanted: Pass) -> int:
        """Tokens of the next chunk: the padding of its shape must fit into the slot as well."""
        room = self.capacity + SLACK - wanted.start
        lengths = [length for rows, length in self.model.shapes if rows == 1 and length <= room]
        return min(len(wanted.tokens), max(lengths))

    def _settle(self, wanted: Pass, taken: int, told: list[int]) -> None:
        wanted.codes += told[:taken]
        wanted.start += taken
        del wanted.tokens[:taken], wanted.stops[:taken]
        if wanted.tokens:
            with self._changed:
                self._passes.append(wanted)
            return
        stream = wanted.stream
        if stream is not None:
            stream.since = wanted.since
            if not wanted.stops:  # else who waits for the scores counts this pass
                stream.spent.take(wanted.spent)
            with self._changed:
                if not stream.closed:
                    self._streams[stream.slot] = stream
            self._receive(stream, told[-1:])
        wanted.done.put(None)

    def _burst(self, streams: Sequence[Stream]) -> None:
        began = self._now()
        try:
            told = self.model.burst([stream.slot for stream in streams]).take()[0]
        except Exception as error:
            if len(streams) == 1:
                self._receive(streams[0], _told(error))
                return
            # The host knows where each of them was: it is set back to there, and tried alone.
            for stream in streams:
                self.model.set(stream.slot, stream.at)
                self._burst([stream])
            return
        self._account(streams, began, "decode")
        for row, stream in enumerate(streams):
            self._receive(stream, told[:, row].tolist(), fed=True)

    def _account(self, whose: Sequence[Pass] | Sequence[Stream], began: float, part: str) -> None:
        """Note the time of a pass or burst, and what those in it waited for it."""
        ended = self._now()
        for each in whose:
            each.spent.add("queue", began - each.since)
            each.spent.add(part, ended - began)
            each.since = ended

    def _receive(self, stream: Stream, codes: Sequence[int] | Exception, *, fed: bool = False) -> None:
        with self._changed:
            if stream.closed:
                return
            if isinstance(codes, Exception):
                stream.give([], codes)
            else:
                stream.receive(codes, self.model.grammar, fed=fed)
            if stream.ended and self._streams.get(stream.slot) is stream:
                del self._streams[stream.slot]

    def _fail_all(self, error: EngineError) -> None:
        with self._changed:
            passes, streams = [*self._making, *self._passes], list(self._streams.values())
            self._making = []
            self._passes.clear()
            self._streams.clear()
        for each in passes:
            each.fail(error)
        for stream in streams:
            stream.give([], error)


def _told(error: Exception) -> EngineError:
    """What a conversation is told of an error on the device."""
    return error if isinstance(error, EngineError) else EngineError(one_line(error))
