"""A bundle: the three models, the vocabulary and the voices that belong together, from a name or a folder.

A folder holds config.json, vocabulary (tokenizer.json, vocabulary.json), tokenizer.safetensors, semantic.safetensors,
perceptual.safetensors and voices.safetensors, and of a model that reads what it hears letter by letter
(`recognition`) recognizer.safetensors and words.safetensors. Nothing else is read, and nothing that can run code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..kernels.linear import quantize_linears_
from ..kernels.weight_only import round_weights_
from .checkpoint import load_state, load_strict
from .config import from_json, to_json
from .errors import CheckpointError, ConfigError, ModelNotFoundError
from .packing import pack, unpack
from .perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from .perceptual.flow_matching import Solver
from .perceptual.schedule import BlockSchedule
from .recognition.reader import LetterReader, ReaderConfig
from .recognition.recognizer import Recognizer
from .recognition.word_model import WordModel
from .semantic.layout import MAX_HISTORY_TURNS
from .semantic.llama import SemanticConfig, SemanticModel
from .semantic.vocabulary import N_UNITS, SpeechVocabulary
from .speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from .voice import Voice

Packing = Literal["float32", "float16", "bfloat16", "int8"]
PRECISIONS = ("float32", "bfloat16", "float16", "int8", "fp8")
PARTS = ("tokenizer", "semantic", "perceptual")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleConfig:
    """config.json of a bundle."""

    tokenizer: StreamingTokenizerConfig
    semantic: SemanticConfig
    perceptual: BlockCausalConfig
    voices: tuple[str, ...]
    format: Literal["speechgpt-gen"] = "speechgpt-gen"
    solver: Solver = field(default_factory=lambda: Solver("euler", 6))
    blocks: BlockSchedule = field(default_factory=BlockSchedule)
    history_turns: int = MAX_HISTORY_TURNS
    """Earlier turns that the semantic model is told; 0 for one that hears worse after them."""
    instructions: bool = True
    """Whether it is told a system text; not if it was trained without."""
    restate: bool = False
    """Whether it reads what it understood of a turn before it answers: for one that answers better in writing."""
    recognizer: ReaderConfig | None = None
    """What reads a turn's letters, for a model that has it."""
    description: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if not self.voices:
            raise ConfigError("voices is empty: name at least one, the first is the default")
        if self.tokenizer.latent_dim != self.perceptual.latent_dim:
            raise ConfigError(
                f"the tokenizer's latent_dim {self.tokenizer.latent_dim} is not the perceptual model's "
                f"{self.perceptual.latent_dim}"
            )
        if self.tokenizer.codebook_size != N_UNITS:
            raise ConfigError(f"the tokenizer has {self.tokenizer.codebook_size} units, the vocabulary {N_UNITS}")
        told, known = self.tokenizer.semantic.detail, self.semantic.detail
        if told != known:
            raise ConfigError(f"the tokenizer hears {told} digits of detail, the semantic model takes {known}")
        if self.perceptual.detail not in (0, told):
            raise ConfigError(
                f"the perceptual model takes {self.perceptual.detail} digits of detail, the tokenizer hears {told}"
            )
        if self.recognizer is not None and self.recognizer.detail != told:
            raise ConfigError(
                f"the recognizer takes {self.recognizer.detail} digits of detail, the tokenizer hears {told}"
            )
        if self.recognizer is not None and not self.restate:
            raise ConfigError("the recognizer decides what a restated turn says: set restate, or leave it out")


@dataclass(frozen=True)
class BundleInfo:
    """Where a bundle came from and how big it is: parameters of each part by name."""

    name: str
    folder: Path | None
    parameters: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Bundle:
    """Everything that a conversation needs. The modules are in eval mode on one device; voices are on it too."""

    tokenizer: StreamingSpeechTokenizer
    semantic: SemanticModel
    vocabulary: SpeechVocabulary
    perceptual: BlockCausalFlow
    voices: Mapping[str, Voice]
    config: BundleConfig
    info: BundleInfo
    recognizer: Recognizer | None = None

    @property
    def device(self) -> torch.device:
        return self.tokenizer.codebooks.vectors.device

    def voice(self, voice: str | Voice | None) -> Voice:
        """A voice by name, None for the default. Raises ConfigError for an unknown name or a voice that cannot fit."""
        if isinstance(voice, Voice):
            if voice.latents.shape != (voice.frames, self.tokenizer.dim) or voice.frames == 0:
                raise ConfigError(f"voice {voice.name!r} was made with another model: make it with this one")
            return voice
        name = next(iter(self.voices)) if voice is None else voice
        if name not in self.voices:
            raise ConfigError(f"unknown voice {name!r}: choose one of {', '.join(self.voices)}")
        return self.voices[name]


def load_bundle(
    name_or_folder: str | Path,
    device: str | torch.device = "cpu",
    precision: str = "float32",
) -> Bundle:
    """Load a bundle for inference.

    name_or_folder: "nano" (the trained default), "tiny" (random weights, for tests, no file needed), "8b" (random
    weights at the paper's scale, for a GPU) or a folder.
    precision: of the semantic and perceptual models, one of `PRECISIONS`. "int8" on the CPU is three times as quick as
    float32; on a GPU "int8" and "fp8" round the semantic model's weights, and the rest is bfloat16. The tokenizer and
    the voices stay float32.
    Raises ModelNotFoundError, CheckpointError or ConfigError, in one line.
    """
    device = _device(device)
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "fp8" and device.type == "cpu":
        raise ConfigError("precision 'fp8' is for a GPU: choose 'int8' on the CPU")
    if name_or_folder == "8b":
        from .eightb import eight_config, random_bundle

        if device.type == "cpu":
            raise ConfigError("the model 8b needs a GPU: set device to cuda, or choose nano")
        return _placed(random_bundle("8b", eight_config(), device), device, precision)
    if name_or_folder == "tiny":
        from .tiny import tiny_bundle

        return _placed(tiny_bundle(), device, precision)
    folder = _folder(name_or_folder)
    config = read_config(folder)
    vocabulary = SpeechVocabulary.load(folder)
    if config.semantic.vocab_size != vocabulary.size:
        raise ConfigError(
            f"{folder / 'config.json'}: semantic.vocab_size is {config.semantic.vocab_size}, "
            f"the vocabulary has {vocabulary.size} entries"
        )
    tokenizer = StreamingSpeechTokenizer(config.tokenizer)
    semantic = SemanticModel(config.semantic)
    perceptual = BlockCausalFlow(config.perceptual)
    for part, module in zip(PARTS, (tokenizer, semantic, perceptual), strict=True):
        _load(module, folder / f"{part}.safetensors")
    voices = _read_voices(folder / "voices.safetensors", config)
    recognizer = None if config.recognizer is None else _read_recognizer(folder, config.recognizer)
    name = folder.name if Path(name_or_folder) == folder else str(name_or_folder)
    bundle = assemble(
        name,
        config,
        vocabulary,
        tokenizer=tokenizer,
        semantic=semantic,
        perceptual=perceptual,
        voices=voices,
        recognizer=recognizer,
        folder=folder,
    )
    return _placed(bundle, device, precision)


def read_config(name_or_folder: str | Path) -> BundleConfig:
    """The configuration of a bundle, without its weights. Raises as `load_bundle`."""
    if name_or_folder == "tiny":
        from .tiny import tiny_bundle

        return tiny_bundle().config
    if name_or_folder == "8b":
        from .eightb import eight_config

        return eight_config()
    return _read_config(_folder(name_or_folder) / "config.json")


def assemble(
    name: str,
    config: BundleConfig,
    vocabulary: SpeechVocabulary,
    *,
    tokenizer: StreamingSpeechTokenizer,
    semantic: SemanticModel,
    perceptual: BlockCausalFlow,
    voices: Mapping[str, Voice],
    recognizer: Recognizer | None = None,
    folder: Path | None = None,
) -> Bundle:
    """Put parts that are already in memory together, in eval mode."""
    parts: dict[str, nn.Module] = dict(zip(PARTS, (tokenizer, semantic, perceptual), strict=True))
    if recognizer is not None:
        parts["recognizer"] = recognizer.reader
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    for module in parts.values():
        module.eval().requires_grad_(False)
    info = BundleInfo(name, folder, counts)
    return Bundle(tokenizer, semantic, vocabulary, perceptual, dict(voices), config, info, recognizer)


def save_bundle(bundle: Bundle, folder: str | Path, packing: Mapping[str, Packing] | None = None) -> None:
    """Write a bundle as a folder that `load_bundle` reads.

    packing: how the weights of "tokenizer", "semantic", "perceptual" and "recognizer" are stored; float32 unless named.
    """
    folder = Path(folder)
    bundle.vocabulary.save(folder)
    (folder / "config.json").write_text(json.dumps(to_json(bundle.config), indent=1) + "\n")
    modules: dict[str, nn.Module] = {part: getattr(bundle, part) for part in PARTS}
    if bundle.recognizer is not None:
        modules["recognizer"] = bundle.recognizer.reader
        _write(bundle.recognizer.words.tensors(), folder / "words.safetensors")
    for part, module in modules.items():
        _write(pack(module.state_dict(), (packing or {}).get(part, "float32")), folder / f"{part}.safetensors")
    voices: dict[str, Tensor] = {}
    for name, voice in bundle.voices.items():
        voices[f"{name}.units"] = voice.units.to("cpu", torch.int64).contiguous()
        voices[f"{name}.latents"] = voice.latents.to("cpu", torch.float32).contiguous()
    _write(voices, folder / "voices.safetensors")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    path.chmod(0o644)  # it is written for its owner alone, and a server may run as somebody else


def builtin_models() -> dict[str, Path]:
    """Folders of the models that come with the package, by name."""
    here = Path(__file__).parent
    return {config.parent.name: config.parent for config in sorted(here.glob("*/config.json"))}


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {str(device)!r} cannot be used: {reason}") from None
    return found


def _folder(name_or_folder: str | Path) -> Path:
    builtin = builtin_models()
    if str(name_or_folder) in builtin:
        return builtin[str(name_or_folder)]
    folder = Path(name_or_folder)
    if not folder.is_dir():
        names = ", ".join(dict.fromkeys((*builtin, "tiny", "8b")))
        raise ModelNotFoundError(f"no model {str(name_or_folder)!r}: give {names} or the folder of a model")
    for name in ("config.json", "voices.safetensors", *(f"{part}.safetensors" for part in PARTS)):
        if not (folder / name).is_file():
            raise ModelNotFoundError(f"the model folder {str(folder)!r} has no {name}")
    return folder


def _read_config(path: Path) -> BundleConfig:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not JSON that can be read: {' '.join(str(error).split())}") from None
    return from_json(BundleConfig, data, str(path))


def _load(module: nn.Module, path: Path) -> None:
    state = unpack(load_state(path), path)
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in state.values() if tensor.is_floating_point()}
    if others := sorted(kinds - {"float32"}):
        log.info("%s holds %s: converted to the precision that is asked for", path, " and ".join(others))
    load_strict(module, state, path)


def _read_recognizer(folder: Path, config: ReaderConfig) -> Recognizer:
    reader, words = LetterReader(config), folder / "words.safetensors"
    _load(reader, folder / "recognizer.safetensors")
    return Recognizer(reader, WordModel.from_tensors(load_state(words), str(words)))


def _read_voices(path: Path, config: BundleConfig) -> dict[str, Voice]:
    state = load_state(path)
    wanted = {f"{name}.{part}" for name in config.voices for part in ("units", "latents")}
    if odd := sorted(wanted ^ set(state)):
        raise CheckpointError(f"{path} and the voices of config.json differ: {', '.join(odd[:4])}")
    voices = {}
    for name in config.voices:
        units, latents = state[f"{name}.units"], state[f"{name}.latents"]
        if units.ndim != 1 or len(units) == 0 or latents.shape != (len(units), config.tokenizer.latent_dim):
            raise CheckpointError(
                f"{path}: voice {name!r} has units {tuple(units.shape)} and latents {tuple(latents.shape)}, "
                f"not (P,) and (P, {config.tokenizer.latent_dim})"
            )
        voices[name] = Voice(name, units.to(torch.int64), latents.to(torch.float32))
    return voices


def _placed(bundle: Bundle, device: torch.device, precision: str) -> Bundle:
    for module in (bundle.tokenizer, bundle.semantic, bundle.perceptual):
        module.to(device)
    if bundle.recognizer is not None:  # small: it is exact but for int8 on the CPU
        bundle.recognizer.reader.to(device)
        if precision == "int8" and device.type == "cpu":
            quantize_linears_(bundle.recognizer.reader.layers)
    if precision in ("fp8", "int8") and device.type != "cpu":
        for parameter in (*bundle.semantic.parameters(), *bundle.perceptual.parameters()):
            parameter.data = parameter.data.to(torch.bfloat16)
        round_weights_(bundle.semantic.fuse_(), "fp8" if precision == "fp8" else "int8")
    elif precision == "int8":
        quantize_linears_(bundle.semantic.fuse_())
        # The few layers at the flow's edges see time and latents as they are; they are cheap, so they stay exact.
        quantize_linears_(bundle.perceptual.blocks)
    else:
        # Parameters only: buffers are statistics and rotary frequencies, which 16 bits would spoil.
        for parameter in (*bundle.semantic.parameters(), *bundle.perceptual.parameters()):
            parameter.data = parameter.data.to(getattr(torch, precision))
    voices = {
        name: Voice(name, voice.units.to(device), voice.latents.to(device)) for name, voice in bundle.voices.items()
    }
    return replace(bundle, voices=voices)
