"""The three stages as slices: each takes what earlier ones left, trains for its time, judges itself and leaves pieces.

tokenizer    units (from where the shipped encoder stands), then the codec around them
semantic     units and words of the corpus, then the language model
perceptual   codes of the corpus, then the flow
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...bundle import load_bundle
from ...checkpoint import load_strict
from ...perceptual.block_causal import BlockCausalFlow
from ...semantic.llama import SemanticModel
from ...semantic.vocabulary import SpeechVocabulary
from ...speech_tokenizer.streaming import StreamingSpeechTokenizer
from .. import acoustic, perceptual_model, semantic_model, semantic_units
from ..corpus import Corpus
from ..extract import extract, load_spoken
from ..recipe import Recipe, all_units, prompt_voice, restore
from ..recordings import Recordings
from .judging import character_error_rate, judged, reconstructed, spoken_again, write_samples
from .machine import Machine
from .pieces import find_pieces, read_pieces, write_pieces

Figures = dict[str, float]


@dataclass(frozen=True)
class Slice:
    """Where a slice reads and writes."""

    machine: Machine
    recipe: Recipe
    corpus: Corpus
    work: Path
    """Scratch of this slice."""
    out: Path
    resume: Sequence[Path]
    """Folders with pieces of earlier slices, of this stage and of others."""
    shipped: str | Path = "nano"
    """The bundle to go on from where there are no pieces."""

    def pieces(self, name: str) -> dict[str, Tensor] | None:
        """Weights that an earlier slice left, if any."""
        folder = find_pieces(self.resume, name)
        if folder is None:
            return None
        print(f"{name}: from {folder}", flush=True)
        return read_pieces(folder, name)

    def reader_config(self) -> semantic_units.SemanticUnitsConfig:
        """Settings that learn to read finished units and leave them as they are."""
        return replace(self.recipe.units, freeze_encoder=True, spectrum_weight=0.0)


def tokenizer(run: Slice) -> Figures:
    """Units and codec. The first slice learns both, later ones leave the units as they are and go on with the codec."""
    earlier = run.pieces("tokenizer")
    start = _tokenizer(run, earlier)
    units = None if earlier is None else _units_module(run, start)
    settled = units is not None
    if units is None:
        budget = run.machine.left * 0.45
        units = semantic_units.train(
            run.corpus,
            run.work / "units",
            run.recipe.units,
            device=run.machine.device,
            start=start.semantic,
            budget=budget,
        )
    start.semantic.load_state_dict(units.eval().encoder.state_dict())
    extract(run.corpus, units, run.work / "spoken.npz")
    spoken = load_spoken(run.work / "spoken.npz", run.corpus)
    if not settled:
        start.codebooks.vectors.zero_()  # they belong to other units
    made = acoustic.train(
        run.corpus,
        run.work / "acoustic",
        run.recipe.acoustic,
        all_units(run.corpus, spoken),
        device=run.machine.device,
        start=start,
        budget=run.machine.left,
    ).eval()
    made.semantic.load_state_dict(units.encoder.state_dict())
    pieces = write_pieces(made.state_dict(), run.out, "tokenizer")
    write_pieces(units.reader.state_dict(), run.out, "reader")
    recordings, held_out = Recordings(run.corpus, run.machine.device), judged(run.corpus)
    again = {u.id: reconstructed(recordings, made, u) for u in held_out}
    write_samples(run.out / "samples.wav", list(again.values())[:8])
    figures: Figures = {
        "pieces": pieces,
        "placed": sum(bool(s.words) for s in spoken.values()) / len(spoken),
        "cer_recorded": character_error_rate(units, {u.id: recordings.audio([u])[0] for u in held_out}, run.corpus),
        "cer_reconstructed": character_error_rate(units, again, run.corpus),
        "items_per_step": run.recipe.acoustic.batch * run.recipe.acoustic.crop_frames,
    }
    _write_voices(run, made.cpu())
    return figures | _size(made)


def semantic(run: Slice) -> Figures:
    """The language model on units as they were recorded and as they are heard through noise."""
    machine = run.machine
    base = _tokenizer(run, run.pieces("tokenizer"))
    units = _units_module(run, base) or semantic_units.train(
        run.corpus,
        run.work / "reader",
        run.reader_config(),
        device=machine.device,
        start=base.semantic,
        budget=machine.left * 0.15,
    )
    machine.timed("units", lambda: extract(run.corpus, units, run.work / "spoken.npz"))
    views = []
    for number in range(2):
        path = run.work / f"noisy{number}.npz"
        extract(run.corpus, units, path, noise=np.random.default_rng(number))
        views.append(load_spoken(path, run.corpus))
    earlier = run.pieces("semantic")
    folder = run.work / "semantic"
    start = None
    if earlier is not None:
        source = find_pieces(run.resume, "semantic")
        assert source is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "vocabulary.json"):
            shutil.copy(source / name, folder / name)
        start = SemanticModel(semantic_model.model_config(run.recipe.semantic, SpeechVocabulary.load(folder)))
        load_strict(start, earlier, source)
    model, vocabulary = semantic_model.train(
        run.corpus,
        load_spoken(run.work / "spoken.npz", run.corpus),
        folder,
        run.recipe.semantic,
        device=machine.device,
        noisy=views,
        start=start,
        compiled=machine.is_gpu,
        workers=machine.workers,
        budget=machine.left,
    )
    _average(model, folder)
    vocabulary.save(run.out)
    tokens = run.recipe.semantic.rows * run.recipe.semantic.row_tokens
    return {"pieces": write_pieces(model.state_dict(), run.out, "semantic"), "items_per_step": tokens} | _size(model)


def perceptual(run: Slice) -> Figures:
    """The flow, on all levels of the tokenizer's codes."""
    machine = run.machine
    base = _tokenizer(run, run.pieces("tokenizer")).to(machine.device)
    units = _encode_all(run, base)
    codes = perceptual_model.extract_codes(run.corpus, base, units)
    start = None
    earlier = run.pieces("perceptual")
    if earlier is not None:
        start = BlockCausalFlow(run.recipe.perceptual.model)
        load_strict(start, earlier, "perceptual")
    folder = run.work / "perceptual"
    model = perceptual_model.train(
        run.corpus,
        base,
        codes,
        folder,
        run.recipe.perceptual,
        device=machine.device,
        start=start,
        compiled=machine.is_gpu,
        budget=machine.left,
    )
    _average(model, folder)
    figures: Figures = {
        "pieces": write_pieces(model.state_dict(), run.out, "perceptual"),
        "items_per_step": run.recipe.perceptual.batch_frames,
    }
    recordings = Recordings(run.corpus, machine.device)
    made = {
        u.id: spoken_again(
            recordings,
            base,
            model,
            codes,
            u,
            prompt_frames=run.recipe.prompt_frames,
            temperature=run.recipe.temperature,
        )
        for u in judged(run.corpus)
    }
    write_samples(run.out / "samples.wav", list(made.values())[:8])
    reader = _units_module(run, base)
    if reader is not None:
        figures["cer_spoken_again"] = character_error_rate(reader, made, run.corpus)
    return figures | _size(model)


STAGES = {"tokenizer": tokenizer, "semantic": semantic, "perceptual": perceptual}


def _tokenizer(run: Slice, earlier: Mapping[str, Tensor] | None) -> StreamingSpeechTokenizer:
    made = StreamingSpeechTokenizer(run.recipe.acoustic.tokenizer)
    if earlier is None:
        bundle = load_bundle(run.shipped)
        load_strict(made, bundle.tokenizer.state_dict(), f"the tokenizer of {bundle.info.name}")
    else:
        load_strict(made, earlier, "tokenizer")
    return made.eval()


def _units_module(run: Slice, base: StreamingSpeechTokenizer) -> semantic_units.SemanticUnits | None:
    """The units' encoder with the reader that an earlier slice left, None when none did."""
    reader = run.pieces("reader")
    if reader is None:
        return None
    module = semantic_units.SemanticUnits(run.recipe.units, len(run.corpus.speakers))
    load_strict(module.reader, reader, "reader")
    module.encoder.load_state_dict(base.semantic.state_dict())
    return module.to(run.machine.device).eval()


@torch.inference_mode()
def _encode_all(run: Slice, base: StreamingSpeechTokenizer) -> Tensor:
    """Units of the whole corpus (frames,) int16."""
    recordings = Recordings(run.corpus, run.machine.device)
    units = torch.empty(recordings.frames, dtype=torch.int16, device=run.machine.device)
    batches = semantic_units.batches_of(run.corpus.utterances, 400.0, 0, fill=False)
    for step in range(batches.per_epoch):
        chosen = [run.corpus.utterances[i] for i in batches(step)]
        wav = recordings.audio(chosen)
        with torch.autocast(wav.device.type, torch.bfloat16):
            index = base.encode_semantic(wav[:, None])
        for row, u in zip(index, chosen, strict=True):
            units[recordings.first_row[u.id] :][: u.frames] = row[: u.frames].short()
    return units


def _average(model: nn.Module, folder: Path) -> None:
    device = next(model.parameters()).device
    restore(model, folder)
    model.to(device)


def _size(model: nn.Module) -> Figures:
    return {"parameters": float(sum(p.numel() for p in model.parameters()))}


def _write_voices(run: Slice, made: StreamingSpeechTokenizer) -> None:
    voices: dict[str, Tensor] = {}
    for name in run.recipe.voices:
        voice = prompt_voice(run.corpus, made, name, run.recipe.prompt_frames)
        voices[f"{name}.units"], voices[f"{name}.latents"] = voice.units.short(), voice.latents.contiguous()
    save_file(voices, run.out / "voices.safetensors")
