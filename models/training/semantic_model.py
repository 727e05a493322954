"""The semantic model's recipe: one network learns to listen, to answer and to speak, in the layout of conversations.

Every document is one of: a spoken question with its spoken answer, an utterance to write down, a text to read out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..semantic import sequences
from ..semantic.layout import Mode
from ..semantic.llama import SemanticConfig, SemanticModel
from ..semantic.pieces import Message
from ..semantic.sequences import IGNORED, Labelled, TimedWord
from ..semantic.vocabulary import SpeechVocabulary
from .batches import LengthBatches, rounded
from .corpus import Corpus, Utterance
from .extract import Spoken
from .loop import Loop, LoopConfig


@dataclass(frozen=True)
class SemanticRecipe:
    """Settings; `delay` is the frames a heard word may take to be written after its last letter was recognised."""

    text_tokens: int = 2000
    hidden_size: int = 384
    intermediate_size: int = 1024
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=1100, learning_rate=1.5e-3, warmup=100, save_every=100, ema=0.99)
    )
    batch_tokens: int = 9000
    delay: int = 3
    direct: float = 0.15
    history: float = 0.15
    typed: float = 0.1
    read_question: float = 0.35
    listen_weight: float = 0.5
    text_weight: float = 4.0
    """Text is a tenth of the targets and all of the understanding."""


def model_config(recipe: SemanticRecipe, vocabulary: SpeechVocabulary) -> SemanticConfig:
    """The model's shape for a vocabulary."""
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
    heard: Utterance | None
    spoken: Utterance | None
    length: int


def documents(corpus: Corpus, spoken: dict[str, Spoken], recipe: SemanticRecipe, split: str) -> list[Document]:
    """All documents of a split, with their lengths in tokens (estimated)."""

    def size(u: Utterance) -> int:
        return len(spoken[u.id].units) + len(u.text) + 10

    usable = [u for u in corpus.split(split) if spoken[u.id].words]
    keep = {u.id for u in usable}
    made = [
        Document("dialogue", q, a, size(q) + size(a))
        for q, a in corpus.pairs(split)
        if q.id in keep and spoken[a.id].words
    ]
    rng = np.random.default_rng(recipe.loop.seed)
    for u in usable:
        if u.kind == "sentence":
            made.append(Document("write", u, None, size(u)))
            made.append(Document("read", None, u, size(u)))
        elif u.kind == "question" and rng.random() < recipe.read_question:
            made.append(Document("read", None, u, size(u)))
    return made


class Builder:
    """Turns documents into labelled sequences."""

    def __init__(
        self, corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary, recipe: SemanticRecipe
    ) -> None:
        self.spoken, self.vocabulary, self.recipe = spoken, vocabulary, recipe
        self.earlier = [(q.text, a.text) for q, a in corpus.pairs("train")]

    def heard(self, u: Utterance) -> Labelled:
        """An utterance as the user's turn."""
        s = self.spoken[u.id]
        words = [TimedWord(w, min(e + self.recipe.delay, len(s.units))) for w, e in zip(s.words, s.ends, strict=True)]
        return sequences.heard(self.vocabulary, s.units.tolist(), words)

    def spoken_answer(self, u: Utterance, mode: Mode, *, learn_text: bool) -> Labelled:
        """An utterance as the agent's answer."""
        s = self.spoken[u.id]
        words = [TimedWord(w, c) for w, c in zip(s.words, s.cuts, strict=True)]
        return sequences.answer(self.vocabulary, s.units.tolist(), words, mode, learn_text=learn_text)

    def build(self, document: Document, rng: np.random.Generator) -> Labelled:
        """The sequence of one document."""
        made = Labelled()
        if document.kind == "dialogue" and rng.random() < self.recipe.history:
            for index in rng.integers(len(self.earlier), size=int(rng.integers(1, 4))):
                question, answer = self.earlier[int(index)]
                messages = [Message("user", question), Message("assistant", answer)]
                made = made + sequences.history(self.vocabulary, messages, learn_answers=True)
        if document.heard is not None:
            typed = document.kind == "dialogue" and rng.random() < self.recipe.typed
            heard = document.heard
            made = made + (sequences.typed(self.vocabulary, heard.text) if typed else self.heard(heard))
        if document.spoken is not None:
            asked = document.kind == "dialogue"
            mode: Mode = "direct" if asked and rng.random() < self.recipe.direct else "text"
            made = made + self.spoken_answer(document.spoken, mode, learn_text=asked)
        return made


def collate(made: Sequence[Labelled], pad: int) -> tuple[Tensor, Tensor]:
    """Right-padded tokens and targets (B, T); causal attention never sees the padding."""
    longest = rounded(max(map(len, made)))
    tokens = torch.full((len(made), longest), pad)
    targets = torch.full((len(made), longest), IGNORED)
    for row, m in enumerate(made):
        tokens[row, : len(m)] = torch.tensor(m.tokens)
        targets[row, : len(m)] = torch.tensor(m.targets)
    return tokens, targets


def weighted_loss(
    model: SemanticModel, vocabulary: SpeechVocabulary, tokens: Tensor, targets: Tensor, recipe: SemanticRecipe
) -> dict[str, Tensor]:
    """Mean cross-entropy where something is asked, weighted by kind of target, and its parts by kind."""
    asked = targets != IGNORED
    with torch.autocast(tokens.device.type, torch.bfloat16):
        logits = model.lm_head(model.hidden(tokens)[asked])
    truth = targets[asked]
    each = F.cross_entropy(logits.float(), truth, reduction="none")
    listen, text = truth == vocabulary.listen, truth < vocabulary.n_text
    unit = (truth >= vocabulary.n_text) & (truth < vocabulary.n_text + 1024)
    weight = torch.where(listen, recipe.listen_weight, torch.where(text, recipe.text_weight, 1.0))

    def mean(mask: Tensor) -> Tensor:
        return each[mask].sum() / mask.sum().clamp_min(1)

    loss = (each * weight).sum() / weight.sum()
    return {"loss": loss, "listen": mean(listen), "text": mean(text), "unit": mean(unit)}


def train(
    corpus: Corpus, spoken: dict[str, Spoken], folder: Path, recipe: SemanticRecipe, *, until: int | None = None
) -> tuple[SemanticModel, SpeechVocabulary]:
    """Train the semantic model in `folder`, resuming from its checkpoint."""
    torch.manual_seed(recipe.loop.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "vocabulary.json").is_file():
        vocabulary = SpeechVocabulary.load(folder)
    else:
        vocabulary = SpeechVocabulary.train_bpe((u.text for u in corpus.split("train")), recipe.text_tokens)
        vocabulary.save(folder)
    model = SemanticModel(model_config(recipe, vocabulary))
    loop = Loop(folder, model, recipe.loop)
    pool = documents(corpus, spoken, recipe, "train")
    builder = Builder(corpus, spoken, vocabulary, recipe)
    batches = LengthBatches([d.length for d in pool], recipe.batch_tokens, recipe.loop.seed)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((recipe.loop.seed, step))
        tokens, targets = collate([builder.build(pool[i], rng) for i in batches(step)], vocabulary.pad)
        return weighted_loss(model, vocabulary, tokens, targets, recipe)

    loop.run(losses, until=until)
    return model, vocabulary
