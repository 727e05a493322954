"""A model folder out of what slices left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...bundle import PARTS, Bundle, load_bundle
from ...checkpoint import load_state, load_strict
from ...errors import CheckpointError
from ...perceptual.block_causal import BlockCausalFlow
from ...recognition.reader import LetterReader
from ...recognition.recognizer import Recognizer
from ...recognition.word_model import WordModel
from ...semantic.llama import SemanticModel
from ...semantic.vocabulary import SpeechVocabulary
from ...speech_tokenizer.streaming import StreamingSpeechTokenizer
from ...voice import Voice
from ..export import write_bundle
from ..recipe import Recipe
from ..semantic_recipe import model_config
from .pieces import READERS, find_pieces, read_pieces, units_id, units_of_pieces


def assemble_slices(folders: Sequence[Path], recipe: Recipe, target: Path, *, shipped: str | Path = "nano") -> Bundle:
    """Write to `target` the bundle of the newest pieces in `folders`, weights in int8; parts that no slice has made are
    taken from `shipped`.

    Raises CheckpointError when no piece is found, when some are missing, or when a part was trained on the units of
    another tokenizer, or a decoder on the latents of another codec.
    There is no recognizer where none knows the units.
    """
    found = {part: find_pieces(folders, part) for part in (*PARTS, "decoder", "recognizer")}
    if not any(found.values()):
        raise CheckpointError(f"no pieces in {', '.join(map(str, folders))}: name the OUT folders of slices")
    base = load_bundle(shipped)
    tokenizer, semantic, perceptual = base.tokenizer, base.semantic, base.perceptual
    vocabulary, voices = base.vocabulary, dict(base.voices)
    if (folder := found["tokenizer"]) is not None:
        tokenizer = StreamingSpeechTokenizer(recipe.acoustic.tokenizer)
        state = {k: v for k, v in read_pieces(folder, "tokenizer").items() if not k.startswith(READERS)}
        load_strict(tokenizer, state, folder)
        voices = _voices(folder / "voices.safetensors", recipe.voices)
    if (folder := found["decoder"]) is not None:
        if units_of_pieces(folder, "decoder") != units_id(tokenizer.codebooks):
            raise CheckpointError("the decoder was trained on another codec's latents: train it anew, or leave it out")
        load_strict(tokenizer.decoder, read_pieces(folder, "decoder"), folder)
    units = units_id(tokenizer.semantic)
    recognizer = base.recognizer if recipe.restate and not found["tokenizer"] else None
    if (folder := found["recognizer"]) is not None:
        if units_of_pieces(folder, "recognizer") != units:
            raise CheckpointError("the recognizer was trained on other units: train it anew, or leave it out")
        reader = LetterReader(replace(recipe.recognizer.model, detail=tokenizer.config.semantic.detail))
        load_strict(reader, read_pieces(folder, "recognizer"), folder)
        words = folder / "words.safetensors"
        recognizer = Recognizer(reader, WordModel.from_tensors(load_state(words), str(words)))
    for part in ("semantic", "perceptual"):
        folder = found[part]
        if (folder is None and found["tokenizer"]) or (folder is not None and units_of_pieces(folder, part) != units):
            raise CheckpointError(f"the {part} model was trained on other units than the tokenizer's: train it anew")
    if (folder := found["semantic"]) is not None:
        vocabulary = SpeechVocabulary.load(folder)
        semantic = SemanticModel(model_config(recipe.semantic, vocabulary, tokenizer.config.semantic.detail))
        load_strict(semantic, read_pieces(folder, "semantic"), folder)
    if (folder := found["perceptual"]) is not None:
        perceptual = BlockCausalFlow(recipe.perceptual.model)
        load_strict(perceptual, read_pieces(folder, "perceptual"), folder)
    return write_bundle(
        target,
        recipe,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        semantic=semantic,
        perceptual=perceptual,
        voices=voices,
        recognizer=recognizer,
    )


def _voices(path: Path, names: Sequence[str]) -> dict[str, Voice]:
    state = load_state(path)
    missing = [name for name in names if f"{name}.units" not in state]
    if missing:
        raise CheckpointError(f"{path} lacks the voices {', '.join(missing)}")
    return {name: Voice(name, state[f"{name}.units"].to(torch.int64), state[f"{name}.latents"]) for name in names}
