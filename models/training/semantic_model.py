"""The semantic model's recipe: one network learns to listen, to answer and to speak, in the layout of conversations.

Every document is one of: a spoken question with its spoken answer (or with the answer's text alone, or both as text),
an utterance to write down, a text to read out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError
from ..semantic import sequences
from ..semantic.hugging_face import extend_llama
from ..semantic.layout import Mode
from ..semantic.llama import SemanticConfig, SemanticModel
from ..semantic.pieces import Message
from ..semantic.sequences import IGNORED, Labelled, TimedWord
from ..semantic.vocabulary import N_UNITS, SpeechVocabulary
from .batches import PackedRows
from .corpus import Corpus, Pair, Utterance
from .extract import Spoken
from .loop import Loop, LoopConfig
from .lora import add_lora_
from .parallel import ALONE, World, shard
from .precision import mixed


@dataclass(frozen=True)
class SemanticRecipe:
    """Settings of the model's shape, of its data and of its training."""

    text_tokens: int = 2000
    hidden_size: int = 384
    intermediate_size: int = 1024
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=1100, learning_rate=1.5e-3, warmup=100, save_every=100, ema=0.99)
    )
    row_tokens: int = 768
    rows: int = 12
    """A step trains on so many rows, each packed with whole documents that do not see each other."""
    delay: int = 8
    """Frames that a heard word may take to be written after its last letter was recognised: the recogniser reads what
    the encoder knew before quantisation, and the units tell it later."""
    direct: float = 0.15
    history: float = 0.5
    """Share of the conversations that begin with one to three turns about something else: most turns of people do."""
    typed: float = 0.1
    chat: int = 2
    """Times an epoch that each pair comes as text alone: a tenth of the tokens of its sound, and all of its content."""
    other_words: float = 0.5
    """Share of these that are asked in other words, where the corpus knows any (`synthesis/other_words.py`)."""
    misheard: float = 0.0
    """Share of the words of typed questions that are lost or replaced, where the answer does not repeat them: what is
    heard errs, and what was asked is still to be guessed."""
    dialogue: float = 1.0
    """Share of the spoken questions that get their answer's sound too; the others end with its text."""
    ahead: int = 7
    """Frames by which a word is spelled before the recogniser hears it begin: its onset must not come before its
    letters are known, and alignment is no more exact than that."""
    read: int = 1
    """Times an epoch that each sentence is read out."""
    read_question: float = 0.35
    listen_weight: float = 0.5
    text_weight: float = 4.0
    """Text is a tenth of the targets and all of the understanding."""
    base: str | None = None
    """Folder of a Hugging Face LLaMA whose weights and text vocabulary are the start; sizes above are then its own."""
    lora_rank: int = 0
    """Adapt the layers by terms of this rank and leave their weights frozen (0: train everything)."""
    lora_alpha: float = 32.0
    loss: Literal["asked", "all"] = "asked"
    """Learn what decoding asks for, or every next token (first stage of a text model that has never seen units)."""
    unit_noise: float = 0.0
    """Share of the units fed that are replaced by random ones: heard ones err, and so do the model's own."""
    evaluate_every: int = 0
    """Steps between losses of the held-out split (0: at the end only)."""


def model_config(recipe: SemanticRecipe, vocabulary: SpeechVocabulary) -> SemanticConfig:
    """The model's shape for a vocabulary."""
    if recipe.base is not None:
        raw = json.loads((Path(recipe.base) / "config.json").read_text())
        return SemanticConfig.from_hf({**raw, "vocab_size": vocabulary.size})
    return SemanticConfig(
        vocab_size=vocabulary.size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
    )


@dataclass(frozen=True)
class Document:
    """What a training sequence is made of; the random choices are drawn when it is built."""

    kind: str
    pair: Pair | None
    heard: Utterance | None
    spoken: Utterance | None
    length: int
    earlier: tuple[Pair, ...] = ()
    """Turns before it that have nothing to do with it."""


def documents(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary, recipe: SemanticRecipe, split: str
) -> list[Document]:
    """All documents of a split, with their lengths in tokens (at most)."""

    def heard(u: Utterance) -> int:
        return len(spoken[u.id].units) + len(vocabulary.encode(u.text)) + 4

    def said(u: Utterance) -> int:
        words = sum(len(vocabulary.spell(w)) + 2 for w in spoken[u.id].words)
        return len(spoken[u.id].units) + len(vocabulary.encode(u.text)) + words + 4

    def before(pair: Pair) -> int:
        return len(sequences.history(vocabulary, pair.before))

    def written(pair: Pair) -> int:
        return len(vocabulary.encode(pair.answer)) + 4

    def typed(pair: Pair) -> int:
        return max(len(vocabulary.encode(text)) for text in (pair.question, *pair.ways)) + 2

    usable = [u for u in corpus.split(split) if spoken[u.id].words or u.kind == "nothing"]
    unrelated = [pair for pair in corpus.texts.values() if pair.split == split and not pair.before]
    made: list[Document] = []
    rng = np.random.default_rng(recipe.loop.seed)

    def converse(kind: str, pair: Pair, heard: Utterance | None, spoken: Utterance | None, length: int) -> None:
        length, earlier = length + before(pair), list[Pair]()
        if unrelated and not pair.before and rng.random() < recipe.history:
            for index in rng.integers(len(unrelated), size=int(rng.integers(1, 4))):
                turn = unrelated[int(index)]
                longer = length + typed(turn) + written(turn)
                if longer <= recipe.row_tokens:
                    earlier.append(turn)
                    length = longer
        made.append(Document(kind, pair, heard, spoken, length, tuple(earlier)))

    answers = {u.pair: u for u in corpus.utterances if u.kind == "answer" and spoken[u.id].words}
    for q in usable:
        if q.kind != "question" or (pair := corpus.texts.get(q.pair)) is None:
            continue
        answer = answers.get(q.pair)
        if answer is not None and rng.random() < recipe.dialogue:
            converse("dialogue", pair, q, answer, heard(q) + said(answer))
        else:
            converse("plan", pair, q, None, heard(q) + written(pair))
    for pair in corpus.texts.values():
        if pair.split == split:
            length = typed(pair) + written(pair)
            for _ in range(recipe.chat):
                converse("chat", pair, None, None, length)
    for u in usable:
        if u.kind == "sentence":
            made.append(Document("write", None, u, None, heard(u)))
            made += [Document("read", None, None, u, said(u))] * recipe.read
        elif u.kind == "nothing":  # a sound without speech: the turn ends without a word
            made.append(Document("write", None, u, None, heard(u)))
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
        return sequences.heard(self.vocabulary, s.units.tolist(), words)

    def question(self, pair: Pair, rng: np.random.Generator) -> str:
        """What a pair asks, perhaps in other words and as it might be heard."""
        text = pair.question
        if pair.ways and rng.random() < self.recipe.other_words:
            text = pair.ways[int(rng.integers(len(pair.ways)))]
        kept, words = set(_plain(pair.answer)), []
        for word in text.split():
            if rng.random() >= self.recipe.misheard or not kept.isdisjoint(_plain(word)):
                words.append(word)
            elif rng.random() < 0.5:
                other = self.unrelated[int(rng.integers(len(self.unrelated)))].question.split()
                words.append(other[int(rng.integers(len(other)))])
        made = " ".join(words)
        return made if made and len(self.vocabulary.encode(made)) <= len(self.vocabulary.encode(text)) else text

    def spoken_answer(self, u: Utterance, mode: Mode, *, learn_text: bool) -> Labelled:
        """An utterance as the agent's answer."""
        s = self.spoken[u.id]
        words: list[TimedWord] = []
        for word, cut in zip(s.words[:-1], s.cuts, strict=False):
            words.append(TimedWord(word, max(cut - self.recipe.ahead, words[-1].end + 1 if words else 1)))
        words.append(TimedWord(s.words[-1], s.cuts[-1]))
        return sequences.answer(self.vocabulary, s.units.tolist(), words, mode, learn_text=learn_text)

    def build(self, document: Document, rng: np.random.Generator) -> Labelled:
        """The sequence of one document, of at most its `length` tokens."""
        pair, heard, spoken = document.pair, document.heard, document.spoken
        before = [] if pair is None else list(pair.before)
        for turn in document.earlier:
            before += [Message("user", self.question(turn, rng)), Message("assistant", turn.answer)]
        made = sequences.history(self.vocabulary, before, learn_answers=True)
        if pair is not None and (heard is None or rng.random() < self.recipe.typed):
            made = made + sequences.typed(self.vocabulary, self.question(pair, rng) if heard is None else heard.text)
        elif heard is not None:
            made = made + self.heard(heard, rng)
        if spoken is not None:
            mode: Mode = "direct" if pair is not None and rng.random() < self.recipe.direct else "text"
            made = made + self.spoken_answer(spoken, mode, learn_text=pair is not None)
        elif pair is not None:
            made = made + sequences.planned(self.vocabulary, pair.answer)
        return made


def _plain(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


class Packed(NamedTuple):
    """Rows of documents: tokens, targets and the number of the document of each token, (B, T) int64."""

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
        noisy = (rng.random(shape) < self.recipe.unit_noise) & (tokens >= vocabulary.n_text)
        noisy &= tokens < vocabulary.n_text + N_UNITS
        tokens[noisy] = vocabulary.n_text + rng.integers(N_UNITS, size=int(noisy.sum()))
        if self.recipe.loss == "all":
            follows = (number[:, 1:] == number[:, :-1]) & (number[:, 1:] >= 0) & (targets[:, :-1] == IGNORED)
            targets[:, :-1][follows] = tokens[:, 1:][follows]
        return Packed(*(torch.from_numpy(each) for each in (tokens, targets, number)))


def weighted_loss(
    model: SemanticModel, vocabulary: SpeechVocabulary, batch: Packed, recipe: SemanticRecipe
) -> dict[str, Tensor]:
    """Mean cross-entropy where something is asked, weighted by kind of target, and its parts by kind."""
    asked = (batch.targets.flatten() != IGNORED).nonzero()[:, 0]
    truth = batch.targets.flatten()[asked]
    # Padded to few lengths: oneDNN keeps a plan for every shape that a product ever had, gigabytes after an hour.
    padded = F.pad(asked, (0, -len(asked) % 512))
    with mixed(batch.tokens.device):
        states = model.hidden(batch.tokens, mask=batch.mask()).flatten(0, 1)[padded]
        logits = model.lm_head(states)[: len(asked)]
    each = F.cross_entropy(logits.float(), truth, reduction="none")
    listen, text = truth == vocabulary.listen, truth < vocabulary.n_text
    unit = (truth >= vocabulary.n_text) & (truth < vocabulary.n_text + N_UNITS)
    weight = torch.where(listen, recipe.listen_weight, torch.where(text, recipe.text_weight, 1.0))

    def mean(mask: Tensor) -> Tensor:
        return each[mask].sum() / mask.sum().clamp_min(1)

    loss = (each * weight).sum() / weight.sum()
    return {"loss": loss, "listen": mean(listen), "text": mean(text), "unit": mean(unit)}


def train(
    corpus: Corpus,
    spoken: dict[str, Spoken],
    folder: Path,
    recipe: SemanticRecipe,
    *,
    device: str = "cpu",
    noisy: Sequence[dict[str, Spoken]] = (),
    start: SemanticModel | None = None,
    compiled: bool = False,
    workers: int = 0,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> tuple[SemanticModel, SpeechVocabulary]:
    """Train the semantic model in `folder`, resuming from its checkpoint.

    noisy: the same recordings as heard through noise; start: a model to go on from, whose vocabulary lies in `folder`;
    workers: processes that build batches; budget: seconds that it may take.
    """
    torch.manual_seed(recipe.loop.seed)
    folder.mkdir(parents=True, exist_ok=True)
    base = None if recipe.base is None else extend_llama(Path(recipe.base))
    if world.first and not (folder / "vocabulary.json").is_file():
        if base is None:
            made = SpeechVocabulary.train_bpe((u.text for u in corpus.split("train")), recipe.text_tokens)
        else:
            made = base[1]
        made.save(folder)
    world.wait()
    vocabulary = SpeechVocabulary.load(folder)
    model = SemanticModel(model_config(recipe, vocabulary)) if base is None else base[0]
    if start is not None:
        model.load_state_dict(start.state_dict())
    model.to(device)
    if recipe.lora_rank:
        add_lora_(model, recipe.lora_rank, recipe.lora_alpha)
    if world.size > 1:
        shard(model, list(model.model.layers), ["hidden"])
    if compiled:
        model.model.compile(dynamic=False)
    builder = Builder(corpus, spoken, vocabulary, recipe, noisy)
    batches = PackedBatches(builder, documents(corpus, spoken, vocabulary, recipe, "train"), recipe)
    held_out = documents(corpus, spoken, vocabulary, recipe, "valid")
    plainly = replace(recipe, unit_noise=0.0, misheard=0.0)
    clean = Builder(corpus, spoken, vocabulary, plainly)
    judged = PackedBatches(clean, held_out, plainly) if held_out else None

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        if judged is None:
            return {}
        parts = [weighted_loss(model, vocabulary, _moved(judged[n], device), recipe) for n in range(4)]
        return {name: sum(float(part[name]) for part in parts) / len(parts) for name in parts[0]}

    loop = Loop(
        folder,
        model,
        recipe.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=recipe.evaluate_every,
        world=world,
    )
    step = recipe.loop.accumulate * world.size
    numbers = range(loop.step * step + world.rank, recipe.loop.steps * step, world.size)
    stream = iter(DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers))
    loop.run(lambda step: weighted_loss(model, vocabulary, _moved(next(stream), device), recipe), until=until)
    return model, vocabulary


def _moved(batch: Packed, device: str) -> Packed:
    return Packed(*(each.to(device, non_blocking=True) for each in batch))
