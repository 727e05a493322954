"""Semantic teachers: what HuBERT (or a model like it) and Whisper hear, 50 features a second to learn from.

Source: SpeechTokenizer (arXiv 2308.16692), whose teacher is the mean of all layers of HuBERT.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..packages import whisper_folder
from .recordings import HOP
from .whisper import read_ctranslate2

WHISPER: Final = "whisper"
"""The teacher that packages carry."""
_FRONT: Final = "preprocessor_config.json"
_RATE: Final = 16_000
_WHISPER_FRAMES: Final = 1500
_OVERLAP: Final = 80
"""Samples that HuBERT's windows, 25 ms long, reach beyond their hop."""


class Teacher:
    """A speech encoder that says what units are to tell.

    name: a Hugging Face folder of HuBERT, WavLM, wav2vec 2.0 or Whisper, a folder of Whisper for CTranslate2, or
    "whisper": whisper-base from its packages. layer: the hidden state that teaches (0: before all layers); None: the
    mean of all. Raises ConfigError for what is not there, ModelNotFoundError without packages.
    """

    def __init__(self, name: str, layer: int | None = None, device: torch.device | str = "cpu") -> None:
        model, self._given, self._longest = _load(_folder(name))
        layers = model.config.num_hidden_layers
        if layer is not None and not 0 <= layer <= layers:
            raise ConfigError(f"units.teacher_layer = {layer}: the teacher has {layers} layers, give 0 to {layers}")
        self._model, self._layer = model.to(device).eval().requires_grad_(False), layer
        self.dim = int(model.config.hidden_size)
        """Features."""

    @torch.no_grad()
    def __call__(self, wav: Tensor, frames: Sequence[int]) -> Tensor:
        """Waveforms (B, N), N a multiple of 320, and the frames of each -> features (B, N / 320, dim) float32, zero
        after the end. They are heard one by one: what pads a row would change what these models hear of it."""
        out = wav.new_zeros(len(wav), wav.shape[-1] // HOP, self.dim)
        for row, said, count in zip(out, wav, frames, strict=True):
            for start in range(0, count, self._longest):
                end = min(count, start + self._longest)
                row[start:end] = self._heard(said[start * HOP : end * HOP])
        return out

    def _heard(self, said: Tensor) -> Tensor:
        """Samples (320 * T,) -> (T, dim)."""
        given = self._given(said.cpu()).to(said.device)
        states = self._model(given, output_hidden_states=True).hidden_states
        chosen = torch.stack(states).mean(0) if self._layer is None else states[self._layer]
        return chosen[0, : len(said) // HOP].float()


_Loaded = tuple[Any, Callable[[Tensor], Tensor], int]
"""A model with `config`, what it is given of samples (N,), and how many frames it hears at once."""


def save_teacher(name: str, folder: Path) -> None:
    """Write a teacher as `Teacher` takes it, for a machine that lacks it: in float16, in files of 50 MB at most."""
    source = _folder(name)
    model, *_ = _load(source)
    model.half().save_pretrained(folder, max_shard_size="50MB")
    if (source / _FRONT).is_file():
        shutil.copyfile(source / _FRONT, folder / _FRONT)


def _folder(name: str) -> Path:
    return whisper_folder() if name == WHISPER else Path(name)


def _load(folder: Path) -> _Loaded:
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.models.whisper.modeling_whisper import WhisperEncoder
    except ImportError as error:
        raise ConfigError(f"a teacher needs transformers: pip install transformers ({error})") from None
    if (folder / "model.bin").is_file():
        return _whisper(_of_ctranslate2(folder / "model.bin"))
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        alone = config.architectures == [WhisperEncoder.__name__]  # as `save_teacher` leaves it
        kind = WhisperEncoder if alone else AutoModel
        model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"units.teacher = {str(folder)!r} is no model that can be read: {_line(error)}") from None
    if config.model_type == "whisper":
        return _whisper(model if alone else model.encoder)
    if config.model_type not in ("hubert", "wavlm", "wav2vec2"):
        raise ConfigError(
            f"units.teacher = {str(folder)!r} is a {config.model_type}: give HuBERT, WavLM, wav2vec 2.0 or Whisper"
        )
    return _hubert(model, folder)


def _hubert(model: Any, folder: Path) -> _Loaded:
    from transformers import Wav2Vec2FeatureExtractor

    known = (folder / _FRONT).is_file()
    front = Wav2Vec2FeatureExtractor.from_pretrained(folder) if known else Wav2Vec2FeatureExtractor()  # type: ignore[no-untyped-call]

    def given(said: Tensor) -> Tensor:
        """Half the overlap on either side: a window about the middle of each frame."""
        values: Tensor = front(said.numpy(), sampling_rate=_RATE, return_tensors="pt")["input_values"]
        return F.pad(values, (_OVERLAP // 2, _OVERLAP // 2))

    return model, given, 60 * 50


def _whisper(encoder: Any) -> _Loaded:
    from transformers import WhisperFeatureExtractor

    front = WhisperFeatureExtractor(encoder.config.num_mel_bins)  # type: ignore[no-untyped-call]

    def given(said: Tensor) -> Tensor:
        """Half a minute, most of it silence, which is what Whisper knows."""
        values: Tensor = front(said.numpy(), sampling_rate=_RATE, return_tensors="pt")["input_features"]
        return values

    return encoder, given, _WHISPER_FRAMES


def _of_ctranslate2(path: Path) -> nn.Module:
    """Whisper's encoder as transformers has it, with the weights of a CTranslate2 file."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    found = {name: torch.from_numpy(value) for name, value in read_ctranslate2(path).items()}
    dim, bands, _ = found["encoder/conv1/weight"].shape
    layers = sum(name.endswith("/self_attention/layer_norm/gamma") for name in found if name.startswith("encoder/"))
    width = len(found["encoder/layer_0/ffn/linear_0/bias"])
    encoder = WhisperEncoder(
        WhisperConfig(
            d_model=dim,
            num_mel_bins=bands,
            encoder_layers=layers,
            encoder_attention_heads=dim // 64,
            encoder_ffn_dim=width,
        )
    )
    state = {"embed_positions.weight": found["encoder/position_encodings/encodings"]}

    def take(ours: str, theirs: str, weight: str = "weight", bias: str = "bias") -> None:
        state[f"{ours}.weight"], state[f"{ours}.bias"] = found[f"{theirs}/{weight}"], found[f"{theirs}/{bias}"]

    take("conv1", "encoder/conv1")
    take("conv2", "encoder/conv2")
    take("layer_norm", "encoder/layer_norm", "gamma", "beta")
    for number in range(layers):
        ours, theirs = f"layers.{number}", f"encoder/layer_{number}"
        take(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm", "gamma", "beta")
        take(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm", "gamma", "beta")
        take(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        take(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        take(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        joined = found[f"{theirs}/self_attention/linear_0/weight"], found[f"{theirs}/self_attention/linear_0/bias"]
        for part, weight, bias in zip("qkv", *(each.chunk(3) for each in joined), strict=True):
            state[f"{ours}.self_attn.{part}_proj.weight"] = weight
            if part != "k":  # has none
                state[f"{ours}.self_attn.{part}_proj.bias"] = bias
    encoder.load_state_dict(state)
    return encoder


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
