"""What the semantic model is trained on, in the layout of conversations.

Every document is one of: a spoken question with its spoken answer (or with the answer's text alone, or both as text),
an utterance to write down, a text to read out. Whole documents are packed into rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import ConfigError
from ..semantic import sequences
from ..semantic.layout import MAX_HISTORY_TURNS, Mode
from ..semantic.pieces import Message
from ..semantic.sequences import IGNORED, Labelled, TimedWord
from ..semantic.vocabulary import N_UNITS, SpeechVocabulary
from .batches import PackedRows
from .corpus import Corpus, Pair, Utterance
from .extract import Spoken
from .semantic_recipe import SemanticRecipe
from .synthesis.other_words import plain_words
from .unit_noise import blur


@dataclass(frozen=True)
class Document:
    """What a training sequence is made of; the random choices are drawn when it is built."""

    kind: str
    pair: Pair | None
    heard: Utterance | None
    spoken: Utterance | None
    length: int
    earlier: tuple[Pair, ...] = ()
    between: tuple[Pair, ...] = ()
    """Turns that have nothing to do with it, before and after those that it needs (`pair.before`)."""
    understood: str = ""
    """What a model wrote down of the question, to be asked so."""


def documents(
    corpus: Corpus,
    spoken: dict[str, Spoken],
    vocabulary: SpeechVocabulary,
    recipe: SemanticRecipe,
    split: str,
    *,
    understood: Mapping[str, str] = MappingProxyType({}),
) -> list[Document]:
    """All documents of a split, with their lengths in tokens (at most).

    understood: by utterance, what a model writes down of a question that it hears.
    """

    def heard(u: Utterance) -> int:
        return len(spoken[u.id].units) + len(vocabulary.encode(u.text)) + 4

    def said(u: Utterance) -> int:
        words = sum(len(vocabulary.spell(w)) + 2 for w in spoken[u.id].words)
        return len(spoken[u.id].units) + len(vocabulary.encode(u.text)) + words + 4

    def before(pair: Pair) -> int:
        return len(sequences.history(vocabulary, pair.before))

    def written(pair: Pair) -> int:
        return len(vocabulary.encode(pair.answer)) + 4

    def typed(pair: Pair, *others: str) -> int:
        return max(len(vocabulary.encode(text)) for text in (pair.question, *pair.ways, *others)) + 2

    usable = [u for u in corpus.split(split) if spoken[u.id].words or u.kind == "nothing"]
    # Only questions are about something else for certain: who tells a name changes what is to be remembered.
    asked = [p for p in corpus.texts.values() if p.split == split and not p.before and p.question.endswith("?")]
    made: list[Document] = []
    rng = np.random.default_rng(recipe.loop.seed)

    def converse(
        kind: str, pair: Pair, heard: Utterance | None, spoken: Utterance | None, length: int, *, understood: str = ""
    ) -> None:
        length, others = length + before(pair), list[Pair]()
        room = MAX_HISTORY_TURNS - len(pair.before) // 2
        if asked and room > 0 and rng.random() < recipe.history:
            for index in rng.integers(len(asked), size=int(rng.integers(1, room + 1))):
                turn = asked[int(index)]
                longer = length + typed(turn) + written(turn)
                if longer <= recipe.row_tokens:
                    others.append(turn)
                    length = longer
        told = bool(pair.before) and not pair.before[0].text.endswith("?")
        # "It" is what the last turn was about; a name that was told stays.
        first = int(rng.integers(len(others) + 1)) if told else len(others)
        earlier, between = tuple(others[:first]), tuple(others[first:])
        made.append(Document(kind, pair, heard, spoken, length, earlier, between, understood))

    def times(pair: Pair) -> range:
        return range(recipe.follow_ups if pair.before else 1)

    answers = {u.pair: u for u in corpus.utterances if u.kind == "answer" and spoken[u.id].words}
    for q in usable:
        if q.kind != "question" or (pair := corpus.texts.get(q.pair)) is None:
            continue
        for _ in times(pair):
            answer = answers.get(q.pair) if rng.random() < recipe.dialogue else None
            kind, rest = ("dialogue", said(answer)) if answer else ("plan", written(pair))
            if rng.random() >= recipe.restated:
                converse(kind, pair, q, answer, heard(q) + rest)
                continue
            made.append(Document("write", None, q, None, heard(q)))
            words = understood.get(q.id, "")
            converse(kind if answer else "chat", pair, None, answer, typed(pair, words) + rest, understood=words)
    for pair in corpus.texts.values():
        if pair.split == split:
            length = typed(pair) + written(pair)
            for _ in range(recipe.chat * len(times(pair))):
                converse("chat", pair, None, None, length)
    for u in usable:
        if u.kind in ("sentence", "nothing"):  # in a sound without speech there is nothing to write: the turn just ends
            made.append(Document("write", None, u, None, heard(u)))
        if u.speaker.split("@")[0] in recipe.heard_only:  # at another rate (`prepare`) likewise
            continue
        if u.kind == "sentence":
            made += [Document("read", None, None, u, said(u))] * recipe.read
        elif u.kind == "question" and rng.random() < recipe.read_question:
            made.append(Document("read", None, None, u, said(u)))
    return made


class Builder:
    """Turns documents into labelled sequences."""

    def __init__(
        self,
        corpus: Corpus,
        spoken: dict[str, Spoken],
        vocabulary: SpeechVocabulary,
        recipe: SemanticRecipe,
        noisy: Sequence[dict[str, Spoken]] = (),
    ) -> None:
        self.spoken, self.vocabulary, self.recipe, self.noisy = spoken, vocabulary, recipe, noisy
        self.unrelated = [p for p in corpus.texts.values() if p.split == "train" and not p.before]

    def heard(self, u: Utterance, rng: np.random.Generator) -> Labelled:
        """An utterance as the user's turn, as it was recorded or with noise."""
        views = [view[u.id] for view in self.noisy if u.id in view and (view[u.id].words or not u.text)]
        s = [self.spoken[u.id], *views][int(rng.integers(len(views) + 1))]
        words = [TimedWord(w, min(e + self.recipe.delay, len(s.units))) for w, e in zip(s.words, s.ends, strict=True)]
        units, detail = blur(s.units, s.detail, rng, near=self.recipe.near_units, lost=self.recipe.lost_units)
        if detail is not None and rng.random() >= self.recipe.without_detail:
            units = units + N_UNITS * detail
        return sequences.heard(self.vocabulary, units.tolist(), words)

    def question(self, pair: Pair, rng: np.random.Generator) -> str:
        """What a pair asks, perhaps in other words and as it might be heard."""
        text = pair.question
        if pair.ways and rng.random() < self.recipe.other_words:
            text = pair.ways[int(rng.integers(len(pair.ways)))]
        kept, words = set(plain_words(pair.answer)), []
        for word in text.split():
            if rng.random() >= self.recipe.misheard or not kept.isdisjoint(plain_words(word)):
                words.append(word)
            elif rng.random() < 0.5:
                other = self.unrelated[int(rng.integers(len(self.unrelated)))].question.split()
                words.append(other[int(rng.integers(len(other)))])
        made = " ".join(words)
        return made if made and len(self.vocabulary.encode(made)) <= len(self.vocabulary.encode(text)) else text

    def turns(self, pairs: Sequence[Pair], rng: np.random.Generator) -> list[Message]:
        """Questions and their answers as they were typed."""
        return [m for p in pairs for m in (Message("user", self.question(p, rng)), Message("assistant", p.answer))]

    def spoken_answer(self, u: Utterance, mode: Mode, *, learn_text: bool) -> Labelled:
        """An utterance as the agent's answer."""
        s = self.spoken[u.id]
        words: list[TimedWord] = []
        for word, cut in zip(s.words[:-1], s.cuts, strict=False):
            words.append(TimedWord(word, max(cut - self.recipe.ahead, words[-1].end + 1 if words else 1)))
        words.append(TimedWord(s.words[-1], s.cuts[-1]))
        units = s.heard
        return sequences.answer(self.vocabulary, units.tolist(), words, mode, learn_text=learn_text)

    def build(self, document: Document, rng: np.random.Generator) -> Labelled:
        """The sequence of one document, of at most its `length` tokens."""
        pair, heard, spoken = document.pair, document.heard, document.spoken
        before = [*self.turns(document.earlier, rng), *(() if pair is None else pair.before)]
        before += self.turns(document.between, rng)
        made = sequences.history(self.vocabulary, before, learn_answers=True)
        if pair is not None and (heard is None or rng.random() < self.recipe.typed):
            asked = document.understood or self.question(pair, rng) if heard is None else heard.text
            made = made + sequences.typed(self.vocabulary, asked)
        elif heard is not None:
            made = made + self.heard(heard, rng)
        if spoken is not None:
            mode: Mode = "direct" if pair is not None and rng.random() < self.recipe.direct else "text"
            made = made + self.spoken_answer(spoken, mode, learn_text=pair is not None)
        elif pair is not None:
            made = made + sequences.planned(self.vocabulary, pair.answer)
        return made


class Packed(NamedTuple):
    """Rows of documents: tokens (what is heard with its detail), targets and the number of the document of each token,
    (B, T) int64."""

    tokens: Tensor
    targets: Tensor
    document: Tensor

    def mask(self) -> Tensor:
        """(B, 1, T, T) bool: a token sees the earlier ones of its own document and itself."""
        same = self.document[:, :, None] == self.document[:, None, :]
        return same.tril()[:, None]


class PackedBatches(Dataset[Packed]):
    """Batch n of a pool of documents, the same for every process that asks."""

    def __init__(self, builder: Builder, pool: Sequence[Document], recipe: SemanticRecipe) -> None:
        self.builder, self.pool, self.recipe = builder, pool, recipe
        if not any(d.length <= recipe.row_tokens for d in pool):
            raise ConfigError(f"none of {len(pool)} documents fits into semantic.row_tokens = {recipe.row_tokens}")
        self.rows = PackedRows([d.length for d in pool], recipe.row_tokens, recipe.rows, recipe.loop.seed)

    def __getitem__(self, n: int) -> Packed:
        rng = np.random.default_rng((self.recipe.loop.seed, n))
        shape = (self.recipe.rows, self.recipe.row_tokens)
        vocabulary = self.builder.vocabulary
        tokens, targets, number = np.full(shape, vocabulary.pad), np.full(shape, IGNORED), np.full(shape, -1)
        for row, members in enumerate(self.rows(n)):
            at = 0
            for count, index in enumerate(members):
                made = self.builder.build(self.pool[index], rng)
                here = slice(at, at + len(made))
                tokens[row, here], targets[row, here], number[row, here] = made.tokens, made.targets, count
                at += len(made)
        plain = tokens % vocabulary.size  # without the detail of what is heard
        noisy = (rng.random(shape) < self.recipe.unit_noise) & (plain >= vocabulary.n_text)
        noisy &= plain < vocabulary.n_text + N_UNITS
        tokens[noisy] = vocabulary.n_text + rng.integers(N_UNITS, size=int(noisy.sum()))
        if self.recipe.loss == "all":
            follows = (number[:, 1:] == number[:, :-1]) & (number[:, 1:] >= 0) & (targets[:, :-1] == IGNORED)
            targets[:, :-1][follows] = tokens[:, 1:][follows] % vocabulary.size
        return Packed(*(torch.from_numpy(each) for each in (tokens, targets, number)))
