"""What a recognizer learns: letters from the units that are heard, and from texts, which words follow which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..config import positive
from ..errors import ConfigError
from ..recognition.letters import characters, collapsed, plainly
from ..recognition.reader import LetterReader, ReaderConfig
from ..recognition.word_model import WordModel
from ..semantic.vocabulary import N_UNITS, to_ascii
from .corpus import Corpus, Utterance
from .extract import Spoken
from .loop import Loop, LoopConfig, restore
from .parallel import ALONE, World
from .precision import mixed
from .saving import save_tensors
from .semantic_units import batches_of, ctc, edits
from .unit_noise import blur

_JUDGED = 200
"""Held-out recordings that are read when a run is judged."""
_WEIGHTS = {"question": 2.0, "sentence": 1.0, "answer": 0.3}
"""What a text counts by what it is for: a turn is a question more often than anything else."""
_REWORDED, _OTHER = 0.35, 0.25
"""What a question in other words counts, of which there are many, and a line of a file of texts."""


@dataclass(frozen=True)
class RecognizerRecipe:
    """Settings of the recognizer's training."""

    model: ReaderConfig = field(default_factory=ReaderConfig)
    """Its shape; the detail is that of the encoder."""
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=6000, learning_rate=2e-3, warmup=100, decay=1.0, ema=0.998)
    )
    batch_seconds: float = 80.0
    near_units: float = 0.02
    """Share of the units, and of the digits of their detail, that are off by a level (`unit_noise.blur`)."""
    lost_units: float = 0.06
    """Share of the units that are lost, a syllable or less at a time."""
    evaluate_every: int = 0
    """Steps between readings of the held-out split (0: at the end only)."""
    rare: float = 1.0
    """Runs of two and three words that texts have less often are forgotten."""
    texts: tuple[str, ...] = ()
    """Files with a text in every line, whose words are counted beside the corpus' own."""

    def __post_init__(self) -> None:
        positive(self, "batch_seconds")


def train(
    corpus: Corpus,
    heard: Sequence[dict[str, Spoken]],
    folder: Path,
    recipe: RecognizerRecipe,
    *,
    detail: int,
    device: str = "cpu",
    start: LetterReader | None = None,
    budget: float | None = None,
    until: int | None = None,
    world: World = ALONE,
) -> LetterReader:
    """Train the reader in `folder`, resuming from its checkpoint, and count words.

    heard: the corpus as it was heard, as it is and through noise; detail: digits that the encoder tells of it; start: a
    reader of this shape to go on from; budget: seconds that it may take. Raises ConfigError for another shape, and for
    a file of texts that cannot be read.
    """
    torch.manual_seed(recipe.loop.seed)
    config = replace(recipe.model, detail=detail)
    if start is not None and start.config != config:
        raise ConfigError(f"the recognizer to start from is {start.config}, the recipe asks for {config}")
    folder.mkdir(parents=True, exist_ok=True)
    if world.first and not (folder / "words.safetensors").is_file():
        save_tensors(count_words(corpus, recipe).tensors(), folder / "words.safetensors")
    world.wait()
    reader = LetterReader(config)
    if start is not None:
        reader.load_state_dict(start.state_dict())
    reader.to(device)
    said = [u for u in corpus.split("train") if characters(u.text)]
    examples = list(product(range(len(heard)), said))
    batches = batches_of([u for _, u in examples], recipe.batch_seconds, recipe.loop.seed)
    held_out = [u for u in corpus.split("valid") if characters(u.text)]
    judged = held_out[:: max(1, len(held_out) // _JUDGED)]

    def losses(step: int) -> dict[str, Tensor]:
        chosen = [examples[i] for i in batches(step)]
        rng = np.random.default_rng((recipe.loop.seed, step))
        rows = [_units(heard[view][u.id], rng, recipe) for view, u in chosen]
        units, frames = _padded(rows, device)
        with mixed(units.device):
            letters = reader(units, frames)
        return {"loss": ctc(letters, [u for _, u in chosen], frames)}

    def evaluate() -> dict[str, float]:
        return {"cer": misread(reader, [(u, heard[0][u.id]) for u in judged])} if judged else {}

    loop = Loop(
        folder,
        reader,
        recipe.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=recipe.evaluate_every,
        world=world,
    )
    loop.run(losses, until=until)
    return reader


def load(folder: Path, config: ReaderConfig) -> tuple[LetterReader, WordModel]:
    """What `train` left in a folder."""
    reader, words = LetterReader(config), folder / "words.safetensors"
    restore(reader, folder)
    return reader, WordModel.from_tensors(load_file(words), str(words))


@torch.no_grad()
def misread(reader: LetterReader, heard: Sequence[tuple[Utterance, Spoken]]) -> float:
    """Share of the letters of recordings that a reader gets wrong, taking the likeliest in each frame."""
    device = reader.letters.weight.device
    wrong = total = 0
    for utterance, spoken in heard:
        best = reader(torch.from_numpy(spoken.heard)[None].to(device))[0].argmax(-1)
        truth = plainly(utterance.text)
        wrong += edits(collapsed(best.tolist()), truth)
        total += len(truth)
    return wrong / max(1, total)


def count_words(corpus: Corpus, recipe: RecognizerRecipe) -> WordModel:
    """The words of a corpus' training split, of what its questions are in other words, and of files of texts."""
    return WordModel.fit(_texts(corpus, recipe), rare=recipe.rare)


def _texts(corpus: Corpus, recipe: RecognizerRecipe) -> Iterator[tuple[str, float]]:
    counted: dict[str, float] = {}
    for pair in corpus.texts.values():
        if pair.split == "train":
            ways = dict.fromkeys(pair.ways, _REWORDED)
            counted |= {pair.answer: _WEIGHTS["answer"], **ways, pair.question: _WEIGHTS["question"]}
    counted |= {u.text: _WEIGHTS.get(u.kind, 1.0) for u in corpus.split("train")}
    yield from counted.items()
    for path in recipe.texts:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"recognizer.texts: {path} cannot be read ({error}): give files of plain text") from None
        for line in lines:
            plain = to_ascii(line)
            if not any(c.isdigit() for c in plain):  # nobody hears how a number is written
                yield plain, _OTHER


def _units(spoken: Spoken, rng: np.random.Generator, recipe: RecognizerRecipe) -> Tensor:
    units, detail = blur(spoken.units, spoken.detail, rng, near=recipe.near_units, lost=recipe.lost_units)
    return torch.from_numpy(units if detail is None else units + N_UNITS * detail)


def _padded(rows: Sequence[Tensor], device: str) -> tuple[Tensor, Tensor]:
    """Rows of units as one (B, T) with T in whole seconds, and how many each has (B,)."""
    longest = -(-max(map(len, rows)) // 50) * 50
    units = torch.zeros(len(rows), longest, dtype=torch.int64)
    for row, values in zip(units, rows, strict=True):
        row[: len(values)] = values
    return units.to(device), torch.tensor([len(row) for row in rows], device=device)
