"""A conversation over one semantic model: it hears units, writes what was said, answers in text and in units.

The state is the list of tokens that it goes on from; what the decoder holds of them may be less. Everything that goes
back (a new history, a taken back end of turn, an answer that was not wanted) names another list, and before the next
pass the decoder is fed what follows their common prefix.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import EngineError
from ..recognition.recognizer import Hearing, Recognizer
from . import layout
from .decoder import Decoder, Drawn, Draws, Opening
from .grammar import Phase
from .pieces import Message, Piece, Text, Transcript, Unit, Word
from .sampling import SamplingOptions
from .text import normalise, sentences

_PREFILL: Final = 32  # rows of one pass while hearing: a word in their midst makes the rows after it run again
_STOPS: Final = ".,?!;:-"  # what the model's draft may end in, which a recognizer does not write

_Given = tuple[int, int]
"""A token to listen to, and the token that text is weighed against after it."""


@dataclass(frozen=True)
class Mark:
    """Where a session was, to go back to."""

    tokens: tuple[int, ...]
    history: int
    units: int
    words: tuple[int, ...]
    hearing: Hearing | None
    answered: bool


class SemanticSession:
    """One conversation. Not thread-safe; generators it returns must not be mixed with other calls until they are done.

    decoder: the sequence that history, turn and answer share; the session is alone on it. restate: a spoken turn is
    answered in text as if what was understood of it had been typed, in the place of what was heard. recognizer: what
    then decides in the end what was understood, if the model itself heard words.
    """

    def __init__(self, decoder: Decoder, *, restate: bool = False, recognizer: Recognizer | None = None) -> None:
        self._decoder, self._restate, self._recognizer = decoder, restate, recognizer
        self._vocabulary = decoder.grammar.vocabulary
        self._limits = decoder.grammar.limits
        self._tokens: list[int] = []
        self._fed: list[int] = []  # what the decoder holds
        self._history = 0  # how many tokens of the list are history
        self._units = 0
        self._words: list[int] = []
        self._hearing: Hearing | None = None
        self._answered = False
        self.ended: Literal["completed", "length"] = "completed"
        """How the last answer ended: "length" when it stopped because the cache or a limit was reached."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """All that the model goes on from."""
        return tuple(self._tokens)

    @property
    def transcript(self) -> str:
        """What the model itself understood of the user's turn so far."""
        return self._vocabulary.decode(self._words)

    # The user's turn

    def begin_turn(self, history: Sequence[Message] = ()) -> None:
        """Forget the present turn and begin the next after `history`; only what differs is computed anew."""
        tokens = layout.history(self._vocabulary, history, room=self._decoder.capacity // 2)
        self._tokens = tokens
        self._settle()  # now, while there is time
        self._history, self._units, self._words, self._answered = len(tokens), 0, [], False
        self._hearing = None if self._recognizer is None else self._recognizer.begin()

    def hear(self, units: Sequence[int]) -> str:
        """Take more of the user's turn and return the words that were understood anew (they concatenate).

        Any cutting of a turn into calls gives the same. Raises EngineError when the turn is too long for the cache, and
        RuntimeError after an answer, when a turn must be begun or gone back to first.
        """
        self._check_unanswered()
        if not units:
            return ""
        before = self.transcript
        self._listen(self._heard(units))
        return self.transcript.removeprefix(before)

    def _heard(self, units: Sequence[int]) -> list[_Given]:
        """Units as they are listened to; before the first of a turn, what opens it is fed."""
        if self._recognizer is not None and self._hearing is not None:
            self._hearing = self._recognizer.hear(self._hearing, units)
        if units and len(self._tokens) == self._history:
            self._feed(layout.open_speech(self._vocabulary))
        return [(self._vocabulary.told(unit), self._vocabulary.listen) for unit in units]

    def _listen(self, given: Sequence[_Given], answer: Opening | None = None) -> Drawn | None:
        """Feed what is given; after each token let the model write text tokens until it prefers that token's stop.

        Many are fed at once as if nothing were to be written; where something is, the rows after it are taken back.
        answer: what comes next goes into the last pass; what it draws is returned.
        """
        pending = list(given)
        written = 0  # text tokens since the last given token; then pending[0] is the last of them
        drawn: Drawn | None = None
        while pending:
            block = pending[:_PREFILL]
            tokens, stops = zip(*block, strict=True)
            start = self._settle()
            if answer is not None and len(block) == len(pending):
                scores, drawn = self._decoder.score_and_draw(start, tokens, stops, answer)
            else:
                scores = self._decoder.score(start, tokens, stops)
            row = next((r for r, s in enumerate(scores) if s.wanted and self._may_write(r, written, stops[r])), None)
            passed = len(block) if row is None else row + 1
            self._remember(tokens[:passed])
            self._units += sum(map(self._vocabulary.is_unit, tokens[:passed]))
            del pending[:passed]
            if row is None:
                written = 0
                continue
            if drawn is not None:
                drawn.close()
            written = written + 1 if row == 0 else 1
            pending.insert(0, (scores[row].text, stops[row]))
            self._words.append(scores[row].text)
        return drawn

    def _may_write(self, row: int, written: int, stop: int) -> bool:
        """Whether the limits allow one more text token after this row of a block."""
        limits = self._limits
        here = written if row == 0 else 0
        if stop != self._vocabulary.listen:
            return here < limits.final_tokens
        units = self._units + row + (1 if written == 0 else 0)
        return here < limits.unit_tokens and len(self._words) < limits.unit_tokens + units // limits.token_units

    def mark(self) -> Mark:
        """The present state, for `rewind`."""
        return Mark(tuple(self._tokens), self._history, self._units, tuple(self._words), self._hearing, self._answered)

    def rewind(self, mark: Mark) -> None:
        """Go back to where `mark` was taken: what is no longer there is fed again when it is needed."""
        self._tokens = list(mark.tokens)
        self._history, self._units, self._words = mark.history, mark.units, list(mark.words)
        self._hearing, self._answered = mark.hearing, mark.answered

    # Answers

    def reply(
        self,
        mode: layout.Mode,
        sampling: SamplingOptions | None = None,
        seed: int = 0,
        last: Sequence[int] = (),
    ) -> Iterator[Piece]:
        """End the user's turn and answer it: Transcript, Text (mode "text"), Word, Unit.

        last: units that end the turn, heard in one pass with its end and, unless the turn is restated, the answer's
        beginning. Raises EngineError when nothing was heard, RuntimeError when the turn was answered already.
        """
        self._check_unanswered()
        if self._units == 0 and not last:
            raise EngineError("nothing was heard in this turn: speak first")
        vocabulary = self._vocabulary
        given = [*self._heard(last), (vocabulary.eosp, vocabulary.eoh)]
        self._answered = True
        opening = self._opening([vocabulary.eoh], mode, sampling, seed)
        drawn: Drawn | None = None
        if self._restate and mode == "text":
            self._listen(given)
            understood, asked = self._understood()
            if self._words:
                del self._tokens[self._history :]
                opening = self._opening(layout.typed(vocabulary, asked), mode, sampling, seed)
        else:
            drawn = self._listen(given, opening)
            understood = self.transcript
        yield Transcript(understood)
        yield from self._answer(opening, drawn)

    def _understood(self) -> tuple[str, str]:
        """The turn in the end, and what is answered of it, which is a whole sentence.

        A recognizer writes what sounds like words even where none are, and no commas and stops: that there are words,
        and whether they end a sentence, is for the model to say.
        """
        drafted = self.transcript
        read = "" if self._hearing is None or self._recognizer is None else self._recognizer.text(self._hearing)
        if not drafted or not read:
            return drafted, drafted
        ending = drafted[len(drafted.rstrip(_STOPS)) :]
        return read + ending, read + (ending[-1] if ending.endswith((".", "?", "!")) else ".")

    def reply_to(
        self, text: str, mode: layout.Mode, sampling: SamplingOptions | None = None, seed: int = 0
    ) -> Iterator[Piece]:
        """Answer a typed turn after the history; what was heard of this turn is not looked at."""
        self._check_unanswered()
        self._answered = True
        del self._tokens[self._history :]
        yield from self._answer(self._opening(layout.typed(self._vocabulary, text), mode, sampling, seed))

    def say(self, text: str, sampling: SamplingOptions | None = None, seed: int = 0) -> Iterator[Piece]:
        """Speak a given text, sentence by sentence, each from an empty memory, as reading was learned.

        Yields Text (a sentence as it is spoken, numbers in words), its Words and Units. Raises TextError for text that
        has nothing to speak or is too long.
        """
        spoken = sentences(normalise(text))
        vocabulary = self._vocabulary
        draws = Draws(sampling or SamplingOptions(), seed)
        self._answered = True
        self.ended = "completed"
        units = 0
        for i, sentence in enumerate(spoken):
            self._tokens = []
            yield Text(f" {sentence}" if i else sentence)
            self._feed([*layout.open_answer(vocabulary, "text"), *vocabulary.encode(sentence)])
            units = yield from self._speak(layout.spoken_words(sentence), draws, units)

    def _opening(self, user: Sequence[int], mode: layout.Mode, sampling: SamplingOptions | None, seed: int) -> Opening:
        phase = Phase.TEXT_FIRST if mode == "text" else Phase.SPELL_FIRST
        tokens = (*user, *layout.open_answer(self._vocabulary, mode))
        return Opening(tokens, phase, Draws(sampling or SamplingOptions(), seed))

    def _answer(self, opening: Opening, drawn: Drawn | None = None) -> Iterator[Piece]:
        """Answer after `opening`; drawn: the tokens of it that are on their way already."""
        self.ended = "completed"
        tokens = self._draw(*opening, drawn)
        if opening.phase == Phase.SPELL_FIRST:
            yield from self._improvise(tokens)
            return
        text: list[int] = []
        for token in tokens:
            if token == self._vocabulary.ua:
                break
            text.append(token)
            piece = self._vocabulary.piece(token)
            yield Text(piece.removeprefix(" ") if len(text) == 1 else piece)
        else:
            self.ended = "length"
        if len(text) == self._limits.text_tokens:
            self.ended = "length"
        yield from self._speak(layout.spoken_words(self._vocabulary.decode(text)), opening.draws, 0)

    def _speak(self, words: Sequence[str], draws: Draws, units: int) -> Generator[Piece, None, int]:
        """Units of words that are known, `units` having gone before; returns how many have by the end.

        `<eosp>` and the next word's letters go in together: one pass a word.
        """
        vocabulary = self._vocabulary
        waiting = [vocabulary.ua]
        for word in words:
            waiting += layout.open_word(vocabulary, word)
            if not self._room(len(waiting) + 1):
                self.ended = "length"
                return units
            yield Word(word, units)
            for token in self._draw(waiting, Phase.WORD_FIRST, draws):
                if token != vocabulary.eosp:
                    units += 1
                    yield Unit(vocabulary.unit_index(token))
            waiting = [vocabulary.eosp]
        if self._room(2):
            self._feed([*waiting, vocabulary.eos])
        return units

    def _improvise(self, tokens: Iterator[int]) -> Iterator[Piece]:
        """Mode "direct": the model spells each word before it speaks it."""
        vocabulary = self._vocabulary
        spelled: list[int] = []
        words = units = 0
        for token in tokens:
            if vocabulary.is_unit(token):
                units += 1
                yield Unit(vocabulary.unit_index(token))
            elif token == vocabulary.sosp:
                words += 1
                yield Word(vocabulary.decode(spelled), units)
            elif token == vocabulary.eosp:
                spelled = []
                if words == self._limits.words:
                    if self._room(1):
                        self._feed([token])
                    break
            elif token == vocabulary.eos:
                if self._room(1):
                    self._feed([token])
                return
            else:
                spelled.append(token)
        self.ended = "length"

    # Feeding

    def _draw(self, tokens: Sequence[int], phase: Phase, draws: Draws, drawn: Drawn | None = None) -> Iterator[int]:
        """Feed `tokens` and give out what follows them, keeping count of what the model remembers."""
        start = self._settle()
        self._remember(tokens)
        stops = (self._vocabulary.ua, self._vocabulary.eos)
        for token in drawn or self._decoder.draw(start, tokens, phase, draws):
            yield token
            # A token that stops is not fed: it goes in with whatever follows it.
            if token not in stops and not (phase == Phase.WORD_FIRST and token == self._vocabulary.eosp):
                self._remember([token % self._vocabulary.size])  # of what it says itself it is fed no detail

    def _feed(self, tokens: Sequence[int]) -> None:
        self._decoder.feed(self._settle(), tokens)
        self._remember(tokens)

    def _remember(self, tokens: Sequence[int]) -> None:
        """Note what the decoder has been fed."""
        self._tokens += tokens
        self._fed += tokens

    def _settle(self) -> int:
        """Make the decoder hold exactly the tokens to go on from; how many they are."""
        same = next((at for at, (a, b) in enumerate(zip(self._fed, self._tokens, strict=False)) if a != b), None)
        del self._fed[min(len(self._fed), len(self._tokens)) if same is None else same :]
        if missing := self._tokens[len(self._fed) :]:
            self._decoder.feed(len(self._fed), missing)
            self._fed += missing
        return len(self._tokens)

    def _room(self, tokens: int) -> bool:
        return len(self._tokens) + tokens <= self._decoder.capacity

    def _check_unanswered(self) -> None:
        if self._answered:
            raise RuntimeError("this turn has been answered: begin the next one or rewind to before the answer")
