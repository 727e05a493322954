"""What a run leaves in the end: a bundle of the parts that it trained, and of a model's that it did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..bundle import PARTS, Bundle, BundleConfig, assemble, save_bundle
from ..errors import ConfigError
from ..perceptual.block_causal import BlockCausalFlow
from ..recognition.recognizer import Recognizer
from ..semantic.llama import SemanticModel
from ..semantic.vocabulary import SpeechVocabulary
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from ..voice import Voice
from . import recognition
from .corpus import Corpus
from .loop import restore
from .lora import add_lora_, merge_
from .recipe import Recipe, load_tokenizer
from .semantic_recipe import model_config


def export(run: Path, recipe: Recipe, folder: Path, start: Bundle | None = None) -> Bundle:
    """Write the bundle that `serve --model FOLDER` loads, weights in int8; parts and voices that the run lacks are
    those of `start`."""
    corpus = Corpus(run / "corpus")
    tokenizer = load_tokenizer(run, recipe, corpus, start)
    if start is not None and not (run / "semantic").is_dir():
        vocabulary, semantic = start.vocabulary, start.semantic
    else:
        vocabulary = SpeechVocabulary.load(run / "semantic")
        semantic = SemanticModel(model_config(recipe.semantic, vocabulary, tokenizer.config.semantic.detail))
        if recipe.semantic.lora_rank:
            add_lora_(semantic, recipe.semantic.lora_rank, recipe.semantic.lora_alpha)
        restore(semantic, run / "semantic")
        merge_(semantic)
        if start is not None and recipe.blend < 1:
            before = start.semantic.state_dict()  # a model that knew no detail takes nothing from it
            semantic.load_state_dict(
                {
                    k: torch.lerp(before.get(k, torch.zeros_like(v)), v, recipe.blend)
                    for k, v in semantic.state_dict().items()
                }
            )
    if start is not None and not (run / "perceptual").is_dir():
        perceptual = start.perceptual
    else:
        perceptual = BlockCausalFlow(recipe.perceptual.model)
        restore(perceptual, run / "perceptual")
    trained = (run / "units").is_dir()
    kept = start.voices if start is not None and (recipe.units.keep or not trained) else {}
    recognizer = start.recognizer if start is not None and kept and recipe.restate else None
    if (run / "recognizer").is_dir():
        shape = replace(recipe.recognizer.model, detail=tokenizer.config.semantic.detail)
        recognizer = Recognizer(*recognition.load(run / "recognizer", shape))
    if trained:
        kept = {name: _heard_anew(voice, tokenizer) for name, voice in kept.items()}
    voices = {
        name: kept[name] if name in kept else prompt_voice(corpus, tokenizer, name, recipe.prompt_frames)
        for name in recipe.voices
    }
    return write_bundle(
        folder,
        recipe,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        semantic=semantic,
        perceptual=perceptual,
        voices=voices,
        recognizer=recognizer,
    )


def write_bundle(
    folder: Path,
    recipe: Recipe,
    *,
    vocabulary: SpeechVocabulary,
    tokenizer: StreamingSpeechTokenizer,
    semantic: SemanticModel,
    perceptual: BlockCausalFlow,
    voices: Mapping[str, Voice],
    recognizer: Recognizer | None = None,
) -> Bundle:
    """Put trained parts together and write them to `folder`, weights in int8."""
    config = BundleConfig(
        tokenizer.config,
        semantic.config,
        replace(perceptual.config, prior_sigma=recipe.temperature),
        tuple(voices),
        history_turns=recipe.history_turns,
        instructions=recipe.instructions,
        restate=recipe.restate,
        recognizer=None if recognizer is None else recognizer.reader.config,
        description=recipe.description,
        license=recipe.license,
    )
    bundle = assemble(
        folder.name,
        config,
        vocabulary,
        tokenizer=tokenizer,
        semantic=semantic,
        perceptual=perceptual,
        voices=voices,
        recognizer=recognizer,
        folder=folder,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_bundle(bundle, folder, dict.fromkeys((*PARTS, "recognizer"), "int8"))
    return bundle


@torch.inference_mode()
def prompt_voice(corpus: Corpus, tokenizer: StreamingSpeechTokenizer, speaker: str, frames: int) -> Voice:
    """A voice from the first recordings of a speaker that is long enough, cut to `frames` (20 ms each)."""
    chosen = next((u for u in corpus.split("train") if u.speaker == speaker and u.frames >= frames), None)
    if chosen is None:
        raise ConfigError(f"speaker {speaker!r} has no recording of {frames} frames: choose another voice")
    wav = torch.from_numpy(corpus.audio(chosen))[None, None]
    units, latents = tokenizer.encode_voice(wav)
    return Voice(speaker, units[0, :frames], latents[0, :frames])


@torch.inference_mode()
def _heard_anew(voice: Voice, tokenizer: StreamingSpeechTokenizer) -> Voice:
    """A voice with the units in which the tokenizer hears it: even if they mean the same, most are others by now."""
    return replace(voice, units=tokenizer.hear(tokenizer.decode(voice.latents[None]))[0])
