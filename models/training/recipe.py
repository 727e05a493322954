"""A whole model from a corpus, part by part: which file each stage reads and writes, and the bundle at the end.

    RUN/corpus/                samples of the corpus           `prepare`
    RUN/units/                 stage one of the tokenizer      `tokenizer`
    RUN/detail.safetensors     detail of what is heard         `tokenizer`
    RUN/spoken.npz             units and places of words       `tokenizer`
    RUN/acoustic/              stage two of the tokenizer      `tokenizer`
    RUN/followed.safetensors   codebook 0, of units kept       `tokenizer`
    RUN/decoder/               stage three of the tokenizer    `decoder`
    RUN/heard-N.npz            the same through noise          `semantic`, `recognizer`
    RUN/semantic/              semantic model                  `semantic`
    RUN/recognizer/            letters and words of a turn     `recognizer`
    RUN/codes.npz              all levels of codes             `decoder`, `perceptual`
    RUN/perceptual/            perceptual model                `perceptual`

Every stage goes on from its last checkpoint; a stage that is finished is not run again. With a model to start from, the
parts that a run does not train are that model's: its units are kept, and only read anew to find the words.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..bundle import Bundle
from ..config import from_json, not_negative, positive
from ..errors import ConfigError
from ..perceptual.block_causal import BlockCausalConfig
from ..semantic.layout import MAX_HISTORY_TURNS
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from . import acoustic, decoder, perceptual_model, reading, recognition, semantic_model, semantic_units
from .corpus import Corpus
from .extract import Spoken, all_details, all_units, extract, load_spoken
from .loop import LoopConfig, restore, saved
from .parallel import World
from .samples import units_alone
from .saving import save_tensors
from .semantic_recipe import SemanticRecipe, model_config
from .understood import understood


@dataclass(frozen=True)
class Recipe:
    """One file for one size of model: the settings of every stage."""

    units: semantic_units.SemanticUnitsConfig = field(default_factory=semantic_units.SemanticUnitsConfig)
    acoustic: acoustic.AcousticConfig = field(default_factory=acoustic.AcousticConfig)
    decoder: decoder.DecoderConfig = field(default_factory=decoder.DecoderConfig)
    semantic: SemanticRecipe = field(default_factory=SemanticRecipe)
    recognizer: recognition.RecognizerRecipe = field(default_factory=recognition.RecognizerRecipe)
    perceptual: perceptual_model.PerceptualRecipe = field(default_factory=perceptual_model.PerceptualRecipe)
    ablation: perceptual_model.PerceptualRecipe = field(
        default_factory=lambda: perceptual_model.PerceptualRecipe(
            model=BlockCausalConfig(dim=256, depth=6, heads=4),
            loop=LoopConfig(steps=1500, learning_rate=1e-3, warmup=100, save_every=10_000, ema=0.998),
            batch_frames=12_000,
        )
    )
    """The model that is trained once for every chain, prior and seed (`ablation.py`)."""
    views: int = 0
    """Times that the semantic model and the recognizer also hear the corpus through noise (`augment.py`)."""
    voices: tuple[str, ...] = ("af_heart",)
    """Speakers of the corpus that become bundled voices; the first is the default and the one that answers."""
    prompt_frames: int = 150
    temperature: float = 0.4
    """Scale of the prior's noise when speaking, against 1 in training: a young model is clearer with less of it."""
    blend: float = 1.0
    """Share of what was trained in the semantic weights of an export, against the model that it started from: the mean
    of both forgets less (Wortsman et al., arXiv 2109.01903)."""
    history_turns: int = MAX_HISTORY_TURNS
    """Earlier turns that the model is told when it is used (`bundle.BundleConfig`)."""
    instructions: bool = True
    """Whether it is told a system text then."""
    restate: bool = False
    """Whether it then reads what it understood before it answers."""
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if self.units.encoder != self.acoustic.tokenizer.semantic:
            raise ConfigError("units.encoder and acoustic.tokenizer.semantic differ: make them the same")
        latents = self.acoustic.tokenizer.latent_dim
        for part in ("perceptual", "ablation"):
            if (asked := getattr(self, part).model.latent_dim) != latents:
                raise ConfigError(f"{part}.model.latent_dim is {asked}: the tokenizer's is {latents}, give the same")
        told = self.units.encoder.detail
        if (asked := self.perceptual.model.detail) not in (0, told):
            raise ConfigError(f"perceptual.model.detail = {asked}: the encoder tells {told} digits, give as many or 0")
        if self.ablation.model.detail:
            raise ConfigError(
                "ablation.model.detail: the ablation compares chain and prior by units alone, leave it out"
            )
        if (asked := self.recognizer.model.detail) not in (0, told):
            raise ConfigError(f"recognizer.model.detail = {asked}: the encoder tells {told} digits, leave it out")
        positive(self, "prompt_frames")
        if not 0 < self.blend <= 1:
            raise ConfigError(f"blend = {self.blend}: give more than 0 and at most 1")


def load_recipe(path: Path) -> Recipe:
    """Read a TOML recipe. Raises ConfigError, in one line, for a file or key that is wrong."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a recipe that can be read: {' '.join(str(error).split())}") from None
    recipe = from_json(Recipe, data, str(path))
    not_negative(recipe, str(path))
    return recipe


def device() -> str:
    """Where stages train: this process' GPU, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def train_tokenizer(run: Path, recipe: Recipe, start: Bundle | None = None) -> None:
    """Both stages of the speech tokenizer, with the extraction of units and words between them; where the units keep
    their meaning (`units.keep`), the first alone: of the codec around them at most codebook 0 follows.

    start: a model whose weights to go on from, here and in the other stages. Raises ConfigError when its shape is not
    the recipe's, or when other stages of the run went on from its units.
    """
    if (run / "spoken.npz").is_file() and not (run / "units").is_dir():
        raise ConfigError(f"{run} keeps the units of the model it started from: train others in another folder")
    corpus = Corpus(run / "corpus")
    codec = None if start is None else start.tokenizer
    if codec is not None:
        ours = recipe.acoustic.tokenizer
        _same("tokenizer", codec.config, replace(ours, semantic=codec.config.semantic) if recipe.units.keep else ours)
    encoder, world = None if codec is None else codec.semantic, World.join(device())
    semantic_units.train(corpus, run / "units", recipe.units, device=device(), start=encoder, world=world)
    if world.first and not (run / "spoken.npz").is_file():
        extract(corpus, _stage_one(run, recipe, corpus, start).to(device()), run / "spoken.npz")
    world.wait()
    units = all_units(corpus, load_spoken(run / "spoken.npz", corpus))
    if recipe.units.keep:
        hours, path = recipe.acoustic.follow_hours, run / "followed.safetensors"
        if world.first and codec is not None and hours and not path.is_file():
            save_tensors({"vectors": acoustic.follow_units(corpus, codec.to(device()), units, hours)}, path)
        return
    if codec is not None:
        codec.codebooks.vectors.zero_()  # they quantised what other units left
    acoustic.train(corpus, run / "acoustic", recipe.acoustic, units, device=device(), start=codec, world=world)


def load_tokenizer(run: Path, recipe: Recipe, corpus: Corpus, start: Bundle | None = None) -> StreamingSpeechTokenizer:
    """The tokenizer that its stages made, or of the model to start from what they did not; in eval mode."""
    trained = (run / "units").is_dir()
    if start is not None and (recipe.units.keep or not trained):
        tokenizer = deepcopy(start.tokenizer)
    else:
        tokenizer = StreamingSpeechTokenizer(recipe.acoustic.tokenizer)
        restore(tokenizer, run / "acoustic")
    if trained or start is None or recipe.units.encoder.detail != start.tokenizer.config.semantic.detail:
        tokenizer.take(_stage_one(run, recipe, corpus, start, read=False).encoder)
    if (run / "followed.safetensors").is_file():
        tokenizer.codebooks.vectors[0] = load_file(run / "followed.safetensors")["vectors"]
    if saved(run / "decoder"):
        restore(tokenizer.decoder, run / "decoder")
    return tokenizer.eval()


def _stage_one(
    run: Path, recipe: Recipe, corpus: Corpus, start: Bundle | None = None, *, read: bool = True
) -> semantic_units.SemanticUnits:
    """What stage one made, or the units of the model to start from with, if asked, a reader of their own; either with
    the detail that the recipe wants."""
    trained = start is None or (run / "units").is_dir()
    wanted = recipe.units.encoder
    if start is not None:
        _same("detail", start.tokenizer.config.semantic.detail or wanted.detail, wanted.detail)
    if start is None or trained:
        made = semantic_units.SemanticUnits(recipe.units, len(corpus.speakers))
        restore(made, run / "units")
    else:
        encoder = replace(start.tokenizer.config.semantic, detail=wanted.detail)
        made = semantic_units.SemanticUnits(replace(recipe.units, encoder=encoder), len(corpus.speakers))
        made.encoder.start_from(start.tokenizer.semantic)
    made.to(device()).eval()
    before = start.tokenizer.semantic if start is not None and (recipe.units.keep or not trained) else None
    if wanted.detail and (trained or before is None or before.detail is None):
        reading.give_detail(run / "detail.safetensors", corpus, made.encoder, before)
    if read and not (trained and recipe.units.recognition):
        print(f"reads units that nobody read: CTC {reading.learn_to_read(corpus, made):.2f}")
    return made


def _same(part: str, ours: object, wanted: object) -> None:
    if ours != wanted:
        raise ConfigError(f"the {part} to start from is {ours}, the recipe asks for {wanted}: make the recipe the same")


def train_decoder(run: Path, recipe: Recipe, start: Bundle | None = None) -> None:
    """The tokenizer's decoder alone; other stages may come before it or after."""
    world = World.join(device())
    corpus, tokenizer, found = _coded(run, recipe, start, world)
    decoder.train(corpus, tokenizer, found, run / "decoder", recipe.decoder, device=device(), world=world)


def train_semantic(run: Path, recipe: Recipe, start: Bundle | None = None) -> None:
    """The semantic model, from the units and words that the tokenizer stage left."""
    corpus = Corpus(run / "corpus")
    world = World.join(device())
    detail = recipe.units.encoder.detail
    if start is not None:
        theirs = start.semantic.config  # one that knows no detail yet may learn of it
        ours = model_config(recipe.semantic, start.vocabulary, detail)
        _same("semantic model", replace(theirs, detail=theirs.detail or detail), ours)
    if world.first:
        if start is not None:
            start.vocabulary.save(run / "semantic")
        _extract(run, recipe, corpus, recipe.views, start)
    world.wait()
    spoken, written = _spoken(run, corpus), dict[str, str]()
    if start is not None and recipe.semantic.restated:
        written = understood(run / "understood.jsonl", start, corpus, spoken, world)
    semantic_model.train(
        corpus,
        spoken,
        run / "semantic",
        recipe.semantic,
        device=device(),
        noisy=_noisy(run, recipe, corpus),
        understood=written,
        start=None if start is None else start.semantic,
        detail=detail,
        sound=_sound(run, recipe, corpus, start),
        world=world,
    )


def train_recognizer(run: Path, recipe: Recipe, start: Bundle | None = None) -> None:
    """What reads a turn's letters and knows which words follow which, for a model that restates what it hears."""
    if not recipe.restate:
        raise ConfigError("a recognizer decides what a restated turn says: set restate = true, or do without one")
    corpus, world = Corpus(run / "corpus"), World.join(device())
    if world.first:
        _extract(run, recipe, corpus, recipe.views, start)
    world.wait()
    before = None if start is None else start.recognizer
    recognition.train(
        corpus,
        [_spoken(run, corpus), *_noisy(run, recipe, corpus)],
        run / "recognizer",
        recipe.recognizer,
        detail=recipe.units.encoder.detail,
        device=device(),
        start=None if before is None else before.reader,
        world=world,
    )


def _noisy(run: Path, recipe: Recipe, corpus: Corpus) -> list[dict[str, Spoken]]:
    return [load_spoken(run / f"heard-{n}.npz", corpus) for n in range(1, recipe.views + 1)]


def _sound(run: Path, recipe: Recipe, corpus: Corpus, start: Bundle | None) -> Callable[[Tensor], Tensor] | None:
    """What units sound like by themselves, as far as there is a codec."""
    if start is None and not (run / "acoustic").is_dir():
        return None
    return partial(units_alone, load_tokenizer(run, recipe, corpus, start))


def train_perceptual(run: Path, recipe: Recipe, start: Bundle | None = None) -> None:
    """The perceptual model, on all levels of the tokenizer's codes."""
    wanted = recipe.perceptual.model
    if start is not None:
        theirs = start.perceptual.config  # one that knows no detail yet may learn of it
        theirs = replace(theirs, prior_sigma=wanted.prior_sigma)  # no weight, and smaller when speaking
        _same("perceptual model", replace(theirs, detail=theirs.detail or wanted.detail), wanted)
    world = World.join(device())
    corpus, tokenizer, found = _coded(run, recipe, start, world)
    perceptual_model.train(
        corpus,
        tokenizer,
        found,
        run / "perceptual",
        recipe.perceptual,
        detail=all_details(corpus, _spoken(run, corpus)) if wanted.detail else None,
        device=device(),
        start=None if start is None else start.perceptual,
        world=world,
    )


def codes(run: Path, corpus: Corpus, tokenizer: StreamingSpeechTokenizer) -> Tensor:
    """All levels of codes of the corpus (frames, n_q) int16, made once."""
    path = run / "codes.npz"
    if not path.is_file():
        perceptual_model.extract_codes(corpus, tokenizer, all_units(corpus, _spoken(run, corpus)), path)
    return perceptual_model.load_codes(path, corpus)


def _coded(
    run: Path, recipe: Recipe, start: Bundle | None, world: World
) -> tuple[Corpus, StreamingSpeechTokenizer, Tensor]:
    """Corpus, tokenizer and codes, once the first process made what is missing."""
    corpus = Corpus(run / "corpus")
    tokenizer = load_tokenizer(run, recipe, corpus, start)
    if world.first:
        _extract(run, recipe, corpus, 0, start)
        codes(run, corpus, tokenizer)
    world.wait()
    return corpus, tokenizer, codes(run, corpus, tokenizer)


def _extract(run: Path, recipe: Recipe, corpus: Corpus, views: int, start: Bundle | None) -> None:
    """Units and words, and so many views of them through noise, where they are missing."""
    if start is None:
        _spoken(run, corpus)  # the tokenizer's stage leaves it, when it is done
    paths = [run / "spoken.npz", *(run / f"heard-{n}.npz" for n in range(1, views + 1))]
    missing = [(n, path) for n, path in enumerate(paths) if not path.is_file()]
    if missing:
        module = _stage_one(run, recipe, corpus, start).to(device())
        for n, path in missing:
            extract(corpus, module, path, noise=n or None)


def _spoken(run: Path, corpus: Corpus) -> dict[str, Spoken]:
    if not (run / "spoken.npz").is_file():
        raise ConfigError(f"{run} has no spoken.npz: train the tokenizer first")
    return load_spoken(run / "spoken.npz", corpus)
