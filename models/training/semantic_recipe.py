"""Settings of the semantic model's training, and the shape that they give it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..config import positive
from ..semantic.llama import SemanticConfig
from ..semantic.vocabulary import SpeechVocabulary
from .loop import LoopConfig


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
    """Share of the conversations in which turns about something else come earlier, three turns with what the question
    needs of them at most: most turns of people do. What somebody told may also lie before them."""
    follow_ups: int = 1
    """Times an epoch that each question comes whose answer needs earlier turns: a corpus has few of them."""
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
    restated: float = 0.0
    """Share of the spoken questions that are learnt as a bundle with `restate` answers them: the turn is written down,
    and apart from it what the model to start from understood, or its text with `misheard`, is answered as typed."""
    ahead: int = 7
    """Frames by which a word is spelled before the recogniser hears it begin: its onset must not come before its
    letters are known, and alignment is no more exact than that."""
    read: int = 1
    """Times an epoch that each sentence is read out."""
    read_question: float = 0.35
    heard_only: tuple[str, ...] = ()
    """Speakers of the corpus whose sentences and questions are never read out: an engine that is quick to make many
    hours to listen to need not be one to sound like. Those that a corpus lacks are passed over."""
    listen_weight: float = 0.5
    text_weight: float = 4.0
    """Text is a tenth of the targets and all of the understanding."""
    detail_weight: float = 1.0
    """Of the digits of what is said, a mean of theirs, beside everything else."""
    base: str | None = None
    """Folder of a Hugging Face LLaMA whose weights and text vocabulary are the start; sizes above are then its own."""
    lora_rank: int = 0
    """Adapt the layers by terms of this rank and leave their weights frozen (0: train everything)."""
    lora_alpha: float = 32.0
    loss: Literal["asked", "all"] = "asked"
    """Learn what decoding asks for, or every next token (first stage of a text model that has never seen units)."""
    unit_noise: float = 0.0
    """Share of the units fed that are replaced by random ones: heard ones err, and so do the model's own."""
    near_units: float = 0.0
    """Share of the units heard that are off by one level of a digit, as in another voice (`unit_noise.blur`)."""
    lost_units: float = 0.0
    """Share of the units heard that are lost, a syllable or less at a time."""
    without_detail: float = 0.0
    """Share of what is heard that comes as plain units, where the encoder tells detail."""
    evaluate_every: int = 0
    """Steps between losses of the held-out split (0: at the end only)."""

    def __post_init__(self) -> None:
        positive(self, "text_tokens", "layers", "heads", "kv_heads", "row_tokens", "rows")
        if self.base is None:
            _shape(self, self.text_tokens)  # refuses what cannot be built


def model_config(recipe: SemanticRecipe, vocabulary: SpeechVocabulary, detail: int = 0) -> SemanticConfig:
    """The model's shape for a vocabulary and so many digits of detail of what is heard."""
    if recipe.base is not None:
        raw = json.loads((Path(recipe.base) / "config.json").read_text())
        return replace(SemanticConfig.from_hf({**raw, "vocab_size": vocabulary.size}), detail=detail)
    return _shape(recipe, vocabulary.size, detail)


def _shape(recipe: SemanticRecipe, vocab_size: int, detail: int = 0) -> SemanticConfig:
    return SemanticConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        detail=detail,
    )
