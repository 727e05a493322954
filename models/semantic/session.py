"""A conversation over one semantic model: it hears units, writes what was said, answers in text and in units.

The state is the list of tokens fed so far and their key/value cache; everything that goes back (a new history, a taken
back end of turn, an answer that was not wanted) is a common prefix of two such lists and the rest fed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from ..errors import EngineError
from . import layout
from .llama import SemanticModel
from .pieces import Message, Piece, Text, Transcript, Unit, Word
from .sampling import Sampler, SamplingOptions
from .text import normalise, sentences
from .vocabulary import SpeechVocabulary

_PREFILL: Final = 32  # rows of one pass while hearing: a word in their midst makes the rows after it run again


@dataclass(frozen=True)
class DecodingLimits:
    """What a model, however badly trained, can't exceed.

    word_frames: units of one word (150 = 3 s), then its end is forced. text_tokens: of an answer. words,
    word_characters: of an answer in mode "direct". unit_tokens: text tokens written after one heard unit, final_tokens:
    after the last. token_units: units heard for each text token, over the whole turn, beyond the first `unit_tokens`.
    listen_bias: added to the logit of `<listen>`: above 0 words are written later and more surely, below 0 sooner.
    """

    word_frames: int = 150
    text_tokens: int = 256
    words: int = 200
    word_characters: int = 40
    unit_tokens: int = 16
    final_tokens: int = 32
    token_units: int = 4
    listen_bias: float = 0.0


@dataclass(frozen=True)
class Mark:
    """Where a session was, to go back to."""

    tokens: tuple[int, ...]
    history: int
    units: int
    words: tuple[int, ...]
    answered: bool


class SemanticSession:
    """One conversation. Not thread-safe; generators it returns must not be mixed with other calls until they are done.

    model: in eval mode. capacity: tokens that history, turn and answer may have together, by default what the model
    was made for.
    """

    def __init__(
        self,
        model: SemanticModel,
        vocabulary: SpeechVocabulary,
        capacity: int | None = None,
        limits: DecodingLimits | None = None,
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._limits = limits or DecodingLimits()
        self._cache = model.empty_cache(capacity)
        self._device = self._cache.keys.device
        self._tokens: list[int] = []
        self._history = 0  # how many tokens of the list are history
        self._units = 0
        self._words: list[int] = []
        self._answered = False
        self.ended: Literal["completed", "length"] = "completed"
        """How the last answer ended: "length" when it stopped because the cache or a limit was reached."""
        text, characters = (mask.nonzero().flatten() for mask in (vocabulary.text_ids, vocabulary.character_ids))
        units = torch.arange(vocabulary.unit(0), vocabulary.unit(1023) + 1)
        self._first_text = text.to(self._device)
        self._text = _with(text, vocabulary.ua).to(self._device)
        self._first_unit = units.to(self._device)
        self._unit = _with(units, vocabulary.eosp).to(self._device)
        self._first_character = characters.to(self._device)
        self._word_start = _with(characters, vocabulary.eos).to(self._device)
        self._character = _with(characters, vocabulary.sosp).to(self._device)

    @property
    def tokens(self) -> tuple[int, ...]:
        """All that the model has been fed and still remembers."""
        return tuple(self._tokens)

    @property
    def transcript(self) -> str:
        """What was understood of the user's turn so far."""
        return self._vocabulary.decode(self._words)

    # The user's turn

    def begin_turn(self, history: Sequence[Message] = ()) -> None:
        """Forget the present turn and begin the next after `history`; only what differs is computed anew."""
        tokens = layout.history(self._vocabulary, history, room=self._cache.capacity // 2)
        self._become(tokens)
        self._history, self._units, self._words, self._answered = len(tokens), 0, [], False

    def hear(self, units: Sequence[int]) -> str:
        """Take more of the user's turn and return the words that were understood anew (they concatenate).

        Any cutting of a turn into calls gives the same. Raises EngineError when the turn is too long for the cache, and
        RuntimeError after an answer, when a turn must be begun or gone back to first.
        """
        self._check_unanswered()
        if not units:
            return ""
        before = self.transcript
        if len(self._tokens) == self._history:
            self._feed(layout.open_speech(self._vocabulary))
        given = [self._vocabulary.unit(unit) for unit in units]
        self._listen(given, self._vocabulary.listen, self._limits.listen_bias)
        return self.transcript.removeprefix(before)

    @torch.inference_mode()
    def _listen(self, given: Sequence[int], stop: int, bias: float = 0.0) -> None:
        """Feed `given`; after each of them let the model write text tokens until it prefers `stop`.

        Many are fed at once as if nothing were to be written; where something is, the rows after it are taken back.
        """
        pending = list(given)
        written = 0  # text tokens since the last given token; then pending[0] is the last of them
        while pending:
            block = pending[:_PREFILL]
            start = len(self._tokens)
            logits = self._model.lm_head(self._states(block))  # (t, V)
            best, text = logits[:, : self._vocabulary.n_text].max(dim=-1)
            wanted = best > logits[:, stop] + bias
            row = next((r for r in wanted.nonzero().flatten().tolist() if self._may_write(r, written, stop)), None)
            passed = len(block) if row is None else row + 1
            self._units += sum(map(self._vocabulary.is_unit, block[:passed]))
            del pending[:passed]
            if row is None:
                written = 0
                continue
            self._truncate(start + passed)
            written = written + 1 if row == 0 else 1
            pending.insert(0, int(text[row]))
            self._words.append(pending[0])

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
        return Mark(tuple(self._tokens), self._history, self._units, tuple(self._words), self._answered)

    def rewind(self, mark: Mark) -> None:
        """Go back to where `mark` was taken: free if what it remembers is still there, else that is fed again."""
        self._become(mark.tokens)
        self._history, self._units, self._words = mark.history, mark.units, list(mark.words)
        self._answered = mark.answered

    # Answers

    def reply(self, mode: layout.Mode, sampling: SamplingOptions | None = None, seed: int = 0) -> Iterator[Piece]:
        """End the user's turn and answer it: Transcript (if more words came out), Text (mode "text"), Word, Unit.

        Raises EngineError when nothing was heard, RuntimeError when the turn was answered already.
        """
        self._check_unanswered()
        if self._units == 0:
            raise EngineError("nothing was heard in this turn: speak first")
        before = self.transcript
        self._answered = True
        self._listen([self._vocabulary.eosp], self._vocabulary.eoh)
        if more := self.transcript.removeprefix(before):
            yield Transcript(more)
        yield from self._answer([self._vocabulary.eoh], mode, sampling, seed)

    def reply_to(
        self, text: str, mode: layout.Mode, sampling: SamplingOptions | None = None, seed: int = 0
    ) -> Iterator[Piece]:
        """Answer a typed turn after the history; what was heard of this turn is not looked at."""
        self._check_unanswered()
        self._answered = True
        self._become(self._tokens[: self._history])
        yield from self._answer(layout.typed(self._vocabulary, text), mode, sampling, seed)

    def say(self, text: str, sampling: SamplingOptions | None = None, seed: int = 0) -> Iterator[Piece]:
        """Speak a given text, sentence by sentence, each from an empty memory, as reading was learned.

        Yields Text (a sentence as it is spoken, numbers in words), its Words and Units. Raises TextError for text that
        has nothing to speak or is too long.
        """
        spoken = sentences(normalise(text))
        vocabulary = self._vocabulary
        draws = _Draws(self, sampling, seed)
        self._answered = True
        self.ended = "completed"
        for i, sentence in enumerate(spoken):
            self._become([])
            yield Text(f" {sentence}" if i else sentence)
            self._feed([*layout.open_answer(vocabulary, "text"), *vocabulary.encode(sentence)])
            yield from self._speak(layout.spoken_words(sentence), draws)

    def _answer(
        self, user: Sequence[int], mode: layout.Mode, sampling: SamplingOptions | None, seed: int
    ) -> Iterator[Piece]:
        draws = _Draws(self, sampling, seed)
        self.ended = "completed"
        logits = self._feed([*user, *layout.open_answer(self._vocabulary, mode)])
        if mode == "direct":
            yield from self._improvise(logits, draws)
            return
        text: list[int] = []
        while len(text) < self._limits.text_tokens and self._room(2):
            token = draws.text(logits, self._text if text else self._first_text, history=text)
            if token == self._vocabulary.ua:
                break
            text.append(token)
            piece = self._vocabulary.piece(token)
            yield Text(piece.removeprefix(" ") if len(text) == 1 else piece)
            logits = self._feed([token])
        else:
            self.ended = "length"
        yield from self._speak(layout.spoken_words(self._vocabulary.decode(text)), draws)

    def _speak(self, words: Sequence[str], draws: _Draws) -> Iterator[Piece]:
        """Units of words that are known. `<eosp>` and the next word's letters go in together: one pass a word."""
        vocabulary = self._vocabulary
        waiting = [vocabulary.ua]
        for word in words:
            waiting += layout.open_word(vocabulary, word)
            if not self._room(len(waiting) + 1):
                self.ended = "length"
                return
            yield Word(word, draws.units)
            yield from self._word(self._feed(waiting), draws)
            waiting = [vocabulary.eosp]
        if self._room(2):
            self._feed([*waiting, vocabulary.eos])

    def _improvise(self, logits: Tensor, draws: _Draws) -> Iterator[Piece]:
        """Mode "direct": the model spells each word before it speaks it."""
        vocabulary, limits = self._vocabulary, self._limits
        for said in range(limits.words):
            spelled: list[int] = []
            allowed = self._word_start if said else self._first_character
            while len(spelled) < limits.word_characters:
                if not self._room(3):
                    self.ended = "length"
                    return
                token = draws.text(logits, allowed)
                logits = self._feed([token])
                if token == vocabulary.eos:
                    return
                if token == vocabulary.sosp:
                    break
                spelled.append(token)
                allowed = self._character
            else:
                logits = self._feed([vocabulary.sosp])
            yield Word(vocabulary.decode(spelled), draws.units)
            yield from self._word(logits, draws)
            if not self._room(1):
                self.ended = "length"
                return
            logits = self._feed([vocabulary.eosp])
        self.ended = "length"

    def _word(self, logits: Tensor, draws: _Draws) -> Iterator[Unit]:
        """Units of one word after its `<sosp>`: at least one, at most `word_frames`. Feeds all of them."""
        for frame in range(self._limits.word_frames):
            token = draws.unit(logits, self._unit if frame else self._first_unit)
            if token == self._vocabulary.eosp or not self._room(1):
                return
            draws.units += 1
            yield Unit(self._vocabulary.unit_index(token))
            logits = self._feed([token])

    # Feeding

    @torch.inference_mode()
    def _feed(self, tokens: Sequence[int]) -> Tensor:
        """Feed tokens and return the logits (V,) after the last."""
        logits: Tensor = self._model.lm_head(self._states(tokens)[-1])
        return logits

    @torch.inference_mode()
    def _states(self, tokens: Sequence[int]) -> Tensor:
        batch = torch.tensor([tokens], dtype=torch.int64, device=self._device)
        states = self._model.hidden(batch, self._cache)[0]
        self._tokens += tokens
        return states

    def _become(self, tokens: Sequence[int]) -> None:
        """Make the model remember exactly `tokens`."""
        same = 0
        for ours, wanted in zip(self._tokens, tokens, strict=False):
            if ours != wanted:
                break
            same += 1
        self._truncate(same)
        if same < len(tokens):
            self._states(tokens[same:])

    def _truncate(self, length: int) -> None:
        self._cache.rewind(length)
        del self._tokens[length:]

    def _room(self, tokens: int) -> bool:
        return len(self._tokens) + tokens <= self._cache.capacity

    def _check_unanswered(self) -> None:
        if self._answered:
            raise RuntimeError("this turn has been answered: begin the next one or rewind to before the answer")


class _Draws:
    """The draws of one answer: each has its number, which is the position of its noise."""

    def __init__(self, session: SemanticSession, sampling: SamplingOptions | None, seed: int) -> None:
        self._options = sampling or SamplingOptions()
        self._sampler = Sampler(self._options, seed, session._vocabulary.size)
        self._made = 0
        self.units = 0
        """Units of the answer so far: its frame."""

    def text(self, logits: Tensor, allowed: Tensor, history: Sequence[int] = ()) -> int:
        return self._draw(logits, allowed, self._options.text_temperature, history)

    def unit(self, logits: Tensor, allowed: Tensor) -> int:
        return self._draw(logits, allowed, self._options.temperature)

    def _draw(self, logits: Tensor, allowed: Tensor, temperature: float, history: Sequence[int] = ()) -> int:
        token = self._sampler.draw(logits, self._made, allowed, temperature=temperature, history=history)
        self._made += 1
        return token


def _with(ids: Tensor, token: int) -> Tensor:
    return torch.cat((ids, torch.tensor([token])))
