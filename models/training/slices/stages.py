"""The stages as slices: each takes what earlier ones left, trains for its time, judges itself and leaves pieces.

tokenizer    units (from where the shipped encoder stands), then the codec around them
decoder      the codec's decoder alone
semantic     units and words of the corpus, then the language model
recognizer   units of the corpus, then what reads their letters
perceptual   codes of the corpus, then the flow
ablation     small flows that differ in chain and prior
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...audio import write_wav
from ...bundle import load_bundle
from ...checkpoint import load_strict
from ...errors import ConfigError
from ...perceptual.block_causal import BlockCausalFlow
from ...recognition.reader import LetterReader
from ...semantic.llama import SemanticModel
from ...semantic.vocabulary import SpeechVocabulary
from ...speech_tokenizer.semantic_encoder import UNITS
from ...speech_tokenizer.streaming import StreamingSpeechTokenizer
from .. import acoustic, perceptual_model, recognition, semantic_model, semantic_units
from .. import decoder as decoding
from ..ablation import Bench
from ..corpus import Corpus
from ..export import prompt_voice
from ..extract import Spoken, all_units, extract, load_spoken
from ..loop import restore
from ..precision import mixed
from ..reading import learn_detail, learn_to_read
from ..recipe import Recipe
from ..recordings import Recordings
from ..samples import in_a_row, reconstructed, spoken_again
from ..semantic_recipe import model_config
from .ablation import judge_of, run_variants
from .judging import character_error_rate, judged
from .machine import Machine
from .pieces import READERS, find_pieces, read_pieces, units_id, units_of_pieces, write_pieces

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

    def earlier(self, name: str, units: str | None = None) -> Path | None:
        """The folder where an earlier slice left pieces of `name`, if one did; with `units`, only if they fit those."""
        folder = find_pieces(self.resume, name)
        if folder is not None and units is not None and units_of_pieces(folder, name) != units:
            print(f"{name}: {folder} was trained on other units, so it starts anew", flush=True)
            return None
        print(f"{name}: {'starts anew' if folder is None else f'goes on from {folder}'}", flush=True)
        return folder

    def reader_config(self) -> semantic_units.SemanticUnitsConfig:
        """Settings that learn to read finished units and leave them as they are."""
        return replace(self.recipe.units.reading(), spectrum_weight=0.0)


def tokenizer(run: Slice) -> Figures:
    """Units and codec. The first slice learns both, later ones leave the units as they are and go on with the codec."""
    machine = run.machine
    folder = run.earlier("tokenizer")
    start, units = _tokenizer(run, folder)
    settled = units is not None
    if units is None:
        units = semantic_units.train(
            run.corpus,
            run.work / "units",
            run.recipe.units,
            device=machine.device,
            start=start.semantic,
            budget=machine.left * 0.45,
        ).eval()
        if units.encoder.detail is not None:
            learn_detail(run.corpus, units.encoder)
        if not run.recipe.units.recognition:
            learn_to_read(run.corpus, units)  # to place words
        start.codebooks.vectors.zero_()  # they belong to other units
    extract(run.corpus, units, run.work / "spoken.npz")
    spoken = load_spoken(run.work / "spoken.npz", run.corpus)
    made = acoustic.train(
        run.corpus,
        run.work / "acoustic",
        run.recipe.acoustic,
        all_units(run.corpus, spoken),
        device=machine.device,
        start=start,
        budget=machine.left,
    ).eval()
    made.semantic.load_state_dict(units.encoder.state_dict())
    state = made.state_dict() | {k: v for k, v in units.state_dict().items() if k.startswith(READERS)}
    pieces = write_pieces(state, run.out, "tokenizer", units=units_id(made.semantic))
    recordings, held_out = Recordings(run.corpus, machine.device), judged(run.corpus)
    again = {u.id: reconstructed(recordings, made, u) for u in held_out}
    _write_samples(run, again)
    figures = {
        "pieces": pieces,
        "settled": settled,
        "placed": sum(bool(s.words) for s in spoken.values()) / len(spoken),
        "cer_recorded": character_error_rate(units, {u.id: recordings.audio([u])[0] for u in held_out}, run.corpus),
        "cer_reconstructed": character_error_rate(units, again, run.corpus),
        "items_per_step": run.recipe.acoustic.batch * run.recipe.acoustic.crop_frames,
    }
    _write_voices(run, made.cpu())
    return figures | _size(made)


def decoder(run: Slice) -> Figures:
    """The codec's decoder alone, for latents that stay what they are."""
    machine, recipe = run.machine, run.recipe.decoder
    base, reader = _tokenizer(run, run.earlier("tokenizer"))
    known = units_id(base.codebooks)
    base.to(machine.device)
    codes = _codes(run, base, _hear_all(run, base))
    source = run.earlier("decoder", known)
    if source is not None:
        load_strict(base.decoder, read_pieces(source, "decoder"), source)
    folder = run.work / "decoder"
    made = decoding.train(run.corpus, base, codes, folder, recipe, device=machine.device, budget=machine.left)
    _average(made, folder)
    pieces = write_pieces(made.state_dict(), run.out, "decoder", units=known)
    base.decoder.load_state_dict(made.state_dict())
    recordings = Recordings(run.corpus, machine.device)
    again = {u.id: reconstructed(recordings, base, u) for u in judged(run.corpus)}
    _write_samples(run, again)
    figures: Figures = {"pieces": pieces, "items_per_step": recipe.batch * recipe.crop_frames}
    if reader is not None:
        figures["cer_reconstructed"] = character_error_rate(reader, again, run.corpus)
    return figures | _size(made)


def semantic(run: Slice) -> Figures:
    """The language model on units as they were recorded and as they are heard through noise."""
    machine = run.machine
    base, units = _tokenizer(run, run.earlier("tokenizer"))
    known = units_id(base.semantic)
    views = _views(run, base, units)
    folder = run.work / "semantic"
    start, source = None, run.earlier("semantic", known)
    if source is not None:
        folder.mkdir(parents=True)
        for name in ("tokenizer.json", "vocabulary.json"):
            shutil.copyfile(source / name, folder / name)
        detail = base.config.semantic.detail
        start = SemanticModel(model_config(run.recipe.semantic, SpeechVocabulary.load(folder), detail))
        load_strict(start, read_pieces(source, "semantic"), source)
    model, vocabulary = semantic_model.train(
        run.corpus,
        views[0],
        folder,
        run.recipe.semantic,
        device=machine.device,
        noisy=views[1:],
        start=start,
        detail=base.config.semantic.detail,
        compiled=machine.is_gpu,
        workers=machine.workers,
        budget=machine.left,
    )
    _average(model, folder)
    vocabulary.save(run.out)
    pieces = write_pieces(model.state_dict(), run.out, "semantic", units=known)
    tokens = run.recipe.semantic.rows * run.recipe.semantic.row_tokens
    return {"pieces": pieces, "items_per_step": tokens} | _size(model)


def recognizer(run: Slice) -> Figures:
    """What reads the letters of units, as they were recorded and as they are heard through noise."""
    machine, recipe = run.machine, run.recipe.recognizer
    base, units = _tokenizer(run, run.earlier("tokenizer"))
    known, detail = units_id(base.semantic), base.config.semantic.detail
    start, source = None, run.earlier("recognizer", known)
    if source is not None:
        start = LetterReader(replace(recipe.model, detail=detail))
        load_strict(start, read_pieces(source, "recognizer"), source)
    folder = run.work / "recognizer"
    made = recognition.train(
        run.corpus,
        _views(run, base, units),
        folder,
        recipe,
        detail=detail,
        device=machine.device,
        start=start,
        budget=machine.left,
    )
    _average(made, folder)
    shutil.copyfile(folder / "words.safetensors", run.out / "words.safetensors")
    pieces = write_pieces(made.state_dict(), run.out, "recognizer", units=known)
    return {"pieces": pieces, "items_per_step": recipe.batch_seconds * 50} | _size(made)


def perceptual(run: Slice) -> Figures:
    """The flow, on all levels of the tokenizer's codes."""
    machine = run.machine
    base, reader = _tokenizer(run, run.earlier("tokenizer"))
    known = units_id(base.semantic)
    base.to(machine.device)
    units = _hear_all(run, base)
    detail = units // UNITS
    codes = _codes(run, base, units)
    start, source = None, run.earlier("perceptual", known)
    if source is not None:
        start = BlockCausalFlow(run.recipe.perceptual.model)
        load_strict(start, read_pieces(source, "perceptual"), source)
    folder = run.work / "perceptual"
    model = perceptual_model.train(
        run.corpus,
        base,
        codes,
        folder,
        run.recipe.perceptual,
        detail=detail,
        device=machine.device,
        start=start,
        compiled=machine.is_gpu,
        budget=machine.left,
    )
    _average(model, folder)
    pieces = write_pieces(model.state_dict(), run.out, "perceptual", units=known)
    figures: Figures = {"pieces": pieces, "items_per_step": run.recipe.perceptual.batch_frames}
    recordings = Recordings(run.corpus, machine.device)
    speaking = BlockCausalFlow(replace(model.config, prior_sigma=run.recipe.temperature))
    speaking.load_state_dict(model.state_dict())
    speaking.to(machine.device).eval()
    frames = run.recipe.prompt_frames
    made = {
        u.id: spoken_again(recordings, base, speaking, codes, u, detail=detail, prompt_frames=frames)
        for u in judged(run.corpus)
    }
    _write_samples(run, made)
    if reader is not None:
        figures["cer_spoken_again"] = character_error_rate(reader, made, run.corpus)
    return figures | _size(model)


def ablation(run: Slice) -> Figures:
    """Chain and prior of the perceptual model, all else alike."""
    base, reader = _tokenizer(run, run.earlier("tokenizer"))
    if reader is None:
        raise ConfigError("the ablation is judged by the units' reader: name the OUT of a tokenizer slice")
    base.to(run.machine.device)
    bench = Bench(
        Recordings(run.corpus, run.machine.device),
        base,
        _codes(run, base, _hear_all(run, base)),
        run.recipe.ablation,
        run.recipe.prompt_frames,
        judge_of(reader, run.corpus),
    )
    return run_variants(run.machine, bench, units_id(base.semantic), work=run.work, out=run.out, earlier=run.resume)


STAGES = {f.__name__: f for f in (tokenizer, decoder, semantic, recognizer, perceptual, ablation)}


def _tokenizer(run: Slice, folder: Path | None) -> tuple[StreamingSpeechTokenizer, semantic_units.SemanticUnits | None]:
    """The tokenizer of earlier pieces with the reader of its units, or the shipped one, whose reader is not kept."""
    made = StreamingSpeechTokenizer(run.recipe.acoustic.tokenizer)
    if folder is None:
        bundle = load_bundle(run.shipped)
        load_strict(made, bundle.tokenizer.state_dict(), f"the tokenizer of {bundle.info.name}")
        return made.eval(), None
    state = read_pieces(folder, "tokenizer")
    units = semantic_units.SemanticUnits(run.recipe.units, len(run.corpus.speakers))
    read = {key: state.pop(key) for key in list(state) if key.startswith(READERS)}
    load_strict(made, state, folder)
    encoder = {f"encoder.{key}": value for key, value in made.semantic.state_dict().items()}
    load_strict(units, encoder | read, folder)
    return made.eval(), units.to(run.machine.device).eval()


def _views(
    run: Slice, base: StreamingSpeechTokenizer, units: semantic_units.SemanticUnits | None
) -> list[dict[str, Spoken]]:
    """Units and words of the corpus as recorded and through noise, once somebody can read them."""
    if units is None:
        units = semantic_units.train(
            run.corpus,
            run.work / "reader",
            run.reader_config(),
            device=run.machine.device,
            start=base.semantic,
            budget=run.machine.left * 0.15,
        ).eval()
    return [_heard(run, units, number) for number in range(run.recipe.views + 1)]


def _heard(run: Slice, units: semantic_units.SemanticUnits, view: int) -> dict[str, Spoken]:
    """Units and words of the corpus as recorded (view 0), or through noise."""
    path = run.work / f"spoken{view}.npz"
    run.machine.timed(f"units, view {view}", lambda: extract(run.corpus, units, path, noise=view or None))
    return load_spoken(path, run.corpus)


def _codes(run: Slice, base: StreamingSpeechTokenizer, units: Tensor) -> Tensor:
    """All levels of codes of the corpus (frames, n_q), whose units with or without detail these are."""
    path = run.work / "codes.npz"
    perceptual_model.extract_codes(run.corpus, base, units % UNITS, path)
    return perceptual_model.load_codes(path, run.corpus).to(run.machine.device)


@torch.inference_mode()
def _hear_all(run: Slice, base: StreamingSpeechTokenizer) -> Tensor:
    """Units of the whole corpus with their detail (frames,) int64."""
    recordings = Recordings(run.corpus, run.machine.device)
    units = torch.empty(recordings.frames, dtype=torch.int64, device=run.machine.device)
    batches = semantic_units.batches_of(run.corpus.utterances, 400.0, 0, fill=False)
    for step in range(batches.per_epoch):
        chosen = [run.corpus.utterances[i] for i in batches(step)]
        wav = recordings.audio(chosen)
        with mixed(wav.device):
            index = base.hear(wav[:, None])
        for row, u in zip(index, chosen, strict=True):
            units[recordings.first_row[u.id] :][: u.frames] = row[: u.frames]
    return units


def _average(model: nn.Module, folder: Path) -> None:
    device = next(model.parameters()).device
    restore(model, folder)
    model.to(device)


def _write_samples(run: Slice, made: Mapping[str, Tensor]) -> None:
    write_wav(run.out / "samples.wav", in_a_row(list(made.values())[:8]).numpy())


def _size(model: nn.Module) -> Figures:
    return {"parameters": float(sum(p.numel() for p in model.parameters()))}


def _write_voices(run: Slice, made: StreamingSpeechTokenizer) -> None:
    voices: dict[str, Tensor] = {}
    for name in run.recipe.voices:
        voice = prompt_voice(run.corpus, made, name, run.recipe.prompt_frames)
        voices[f"{name}.units"], voices[f"{name}.latents"] = voice.units.contiguous(), voice.latents.contiguous()
    save_file(voices, run.out / "voices.safetensors")
