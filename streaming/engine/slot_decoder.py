"""What a conversation's thread holds of the decoding thread: passes it waits for, a stream it takes tokens from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ...models.errors import EngineError
from ...models.semantic.decoder import Drawn, Draws, Opening, Score
from ...models.semantic.grammar import NEVER, Grammar, Phase
from ...models.semantic.slots import BROKEN, NOTHING, Start

if TYPE_CHECKING:
    from .decoding import DecodeLoop


class Spent(dict[str, float]):
    """Seconds by what they went into: "queue" (others' work), "prefill", "decode"."""

    def add(self, part: str, seconds: float) -> None:
        self[part] = self.get(part, 0.0) + seconds

    def take(self, other: Spent) -> None:
        """Take over what another has, and leave it nothing."""
        for part, seconds in other.items():
            self.add(part, seconds)
        other.clear()


@dataclass(eq=False)
class Pass:
    """Tokens to feed at `start`, and their stops, if anybody wants scores. `stream` draws after them.

    since: when it came into the queue, or its last part was made.
    """

    slot: int
    start: int
    tokens: list[int]
    stops: list[int] = field(default_factory=list)
    stream: Stream | None = None
    codes: list[int] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    since: float = 0.0
    done: SimpleQueue[Exception | None] = field(default_factory=SimpleQueue)

    def fail(self, error: Exception) -> None:
        self.done.put(error)
        if self.stream is not None:
            self.stream.give([], error)


class Stream:
    """Tokens that a slot draws: where it is, and those not yet taken.

    spent: of the tokens that are given next. since: when the last ones were drawn.
    """

    def __init__(self, slot: int, start: Start) -> None:
        self.slot = slot
        self.at = start
        self.ended = False
        self.closed = False
        self.unread = 0
        self.spent, self.since = Spent(), 0.0
        self._given: SimpleQueue[tuple[list[int], Exception | None, bool, Spent]] = SimpleQueue()

    def receive(self, codes: Sequence[int], grammar: Grammar, *, fed: bool) -> None:
        """Follow what the device drew. fed: each token but the last is in the memory already, as in a burst."""
        tokens: list[int] = []
        for code in codes:
            if code == BROKEN:
                return self.give(tokens, EngineError("the model's numbers are not finite: its weights are broken"))
            if code < 0:
                self.ended = True  # the memory is full; an idle step comes after an end only
                break
            at = self.at
            phase, count = grammar.follow(at.phase, at.count, code)
            tokens.append(code)
            plain = code % grammar.vocabulary.size  # what the model goes on from has no detail
            self.at = replace(
                at, token=plain, phase=phase, count=count, made=at.made + 1, length=at.length + (1 if fed else 0)
            )
            fed = True
            if phase == NEVER:
                self.ended = True
                break
        self.give(tokens, None)

    def give(self, tokens: list[int], error: Exception | None) -> None:
        self.ended = self.ended or error is not None
        self.unread += len(tokens)
        self._given.put((tokens, error, self.ended, self.spent))
        self.spent = Spent()

    def take(self) -> tuple[list[int], bool, Spent]:
        """The next tokens, whether they were the last, and what they took; blocks. Raises what ended the stream."""
        tokens, error, last, spent = self._given.get()
        if error is not None:
            raise error
        return tokens, last, spent


class SlotDecoder:
    """One slot of a DecodeLoop as a `Decoder`: its calls block the conversation's thread, never the decoding thread.

    What is fed waits until something is asked of it: fewer passes, and what is taken back first costs nothing.
    """

    def __init__(self, loop: DecodeLoop, slot: int) -> None:
        self._loop = loop
        self._slot = slot
        self._start = 0
        self._waiting: list[int] = []
        self._spent = Spent()

    @property
    def grammar(self) -> Grammar:
        return self._loop.model.grammar

    @property
    def capacity(self) -> int:
        return self._loop.capacity

    def spent(self) -> Spent:
        """What was spent since this was asked last; to be asked by the thread that draws."""
        spent, self._spent = self._spent, Spent()
        return spent

    def feed(self, start: int, tokens: Sequence[int]) -> None:
        self._go_back(start)
        if not self._waiting:
            self._start = start
        self._waiting += tokens
        if self._start + len(self._waiting) > self.capacity:
            self._ask(Pass(self._slot, *self._taken()))

    def score(self, start: int, tokens: Sequence[int], stops: Sequence[int]) -> list[Score]:
        self.feed(start, tokens)
        return self._scores(Pass(self._slot, *self._taken()), 0, stops)

    def score_and_draw(
        self, start: int, tokens: Sequence[int], stops: Sequence[int], opening: Opening
    ) -> tuple[list[Score], Drawn]:
        end = start + len(tokens)
        if end + len(opening.tokens) > self.capacity:  # whether text comes decides what the error is
            return self.score(start, tokens, stops), self.draw(end, *opening)
        self.feed(start, tokens)
        self.feed(end, opening.tokens)
        wanted = self._beginning(opening.phase, opening.draws)
        assert wanted.stream is not None
        scores = self._scores(wanted, len(opening.tokens), stops)
        drawn = self._drawn(wanted.stream, opening.draws)
        next(drawn)
        return scores, drawn

    def draw(self, start: int, tokens: Sequence[int], phase: Phase, draws: Draws) -> Drawn:
        self.feed(start, tokens)
        wanted = self._beginning(phase, draws)
        assert wanted.stream is not None
        self._loop.submit(wanted)
        drawn = self._drawn(wanted.stream, draws)
        next(drawn)
        yield from drawn

    def _beginning(self, phase: Phase, draws: Draws) -> Pass:
        """A pass of what waits, with a stream that draws after it."""
        at, waiting = self._taken()
        begin = Start(at + len(waiting), int(phase), replace(draws), made=draws.made)
        return Pass(self._slot, at, waiting, stream=Stream(self._slot, begin))

    def _scores(self, wanted: Pass, after: int, stops: Sequence[int]) -> list[Score]:
        """Make a pass; the scores of the tokens that `stops` belong to, `after` others following them."""
        count = len(wanted.tokens)
        before = count - after - len(stops)
        wanted.stops = [stops[0]] * before + [*stops] + [stops[-1]] * after
        self._ask(wanted)
        return [Score(code // 2, bool(code % 2)) for code in wanted.codes[before : count - after]]

    def _drawn(self, stream: Stream, draws: Draws) -> Drawn:
        """What a stream draws; the first `next` only begins it, so that closing it from then on closes the stream."""
        try:
            yield NOTHING
            last = False
            while not last:
                given, last, spent = stream.take()
                self._spent.take(spent)
                for token in given:
                    draws.made += 1
                    yield token
                self._loop.took(stream, len(given))
        finally:
            self._loop.close(stream)

    def _taken(self) -> tuple[int, list[int]]:
        waiting, self._waiting = self._waiting, []
        return self._start, waiting

    def _go_back(self, start: int) -> None:
        """Take back what waits from position `start` on."""
        if self._waiting:
            del self._waiting[max(0, start - self._start) :]

    def _ask(self, wanted: Pass) -> None:
        self._loop.submit(wanted)
        error = wanted.done.get()
        self._spent.take(wanted.spent)
        if error is not None:
            raise error
