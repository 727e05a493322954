"""Start the semantic encoder from the first layers of a Whisper encoder (MIT), read from a CTranslate2 folder.

Whisper has heard hundreds of thousands of hours of recorded people; a corpus of synthetic speech has not. The causal
encoder has the same shapes, so its layers take Whisper's weights and learn to do without the future.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError
from ..speech_tokenizer.semantic_encoder import SemanticEncoder

_TYPES: dict[int, type[np.generic]] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: Path) -> dict[str, NDArray[np.float32]]:
    """Float variables of a CTranslate2 `model.bin` (format version 6) by name. Raises ConfigError for anything else."""
    data, at = path.read_bytes(), 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + kind, data, at)
        at += struct.calcsize(kind)
        return int(value)

    def name() -> str:
        nonlocal at
        length = number("H")
        text = data[at : at + length - 1].decode()
        at += length
        return text

    try:
        version, _, _, count = number("I"), name(), number("I"), number("I")
        if version != 6:
            raise ConfigError(f"{path} is CTranslate2 format {version}, not 6: convert the model again")
        found = {}
        for _ in range(count):
            key = name()
            shape = [number("I") for _ in range(number("B"))]
            kind = _TYPES[number("B")]
            size = number("I")
            values = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, at)
            at += size
            if kind in (np.float16, np.float32):
                found[key] = values.reshape(shape).astype(np.float32)
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a CTranslate2 model: {error}") from None
    return found


@torch.no_grad()
def start_from_whisper(encoder: SemanticEncoder, folder: Path) -> None:
    """Copy convolutions and as many layers as both have; those that `encoder` has beyond them begin by adding nothing.

    Raises ConfigError when the shapes differ.
    """
    path = folder / "model.bin"
    if not path.is_file():
        raise ConfigError(f"no model.bin in {folder}: give the folder of a Whisper model for CTranslate2")
    weights = read_ctranslate2(path)

    def take(target: Tensor, key: str) -> None:
        if key not in weights or tuple(weights[key].shape) != tuple(target.shape):
            raise ConfigError(f"{path} has no {key} of shape {tuple(target.shape)}: whisper-base fits dim 512, heads 8")
        target.copy_(torch.from_numpy(weights[key]))

    def linear(module: nn.Linear, key: str) -> None:
        take(module.weight, f"{key}/weight")
        take(module.bias, f"{key}/bias")

    def norm(module: nn.LayerNorm, key: str) -> None:
        take(module.weight, f"{key}/gamma")
        take(module.bias, f"{key}/beta")

    for index, convolution in ((0, "conv1"), (2, "conv2")):
        take(encoder.front[index].weight, f"encoder/{convolution}/weight")  # type: ignore[arg-type]
        take(encoder.front[index].bias, f"encoder/{convolution}/bias")  # type: ignore[arg-type]
    for number, layer in enumerate(encoder.transformer.layers):
        key = f"encoder/layer_{number}"
        if number > 0 and not any(name.startswith(f"{key}/") for name in weights):
            for last in (layer.out, layer.down):
                nn.init.zeros_(last.weight)  # type: ignore[arg-type, union-attr]
                nn.init.zeros_(last.bias)  # type: ignore[arg-type, union-attr]
            continue
        norm(layer.attention_norm, f"{key}/self_attention/layer_norm")  # type: ignore[arg-type]
        linear(layer.qkv, f"{key}/self_attention/linear_0")  # type: ignore[arg-type]
        linear(layer.out, f"{key}/self_attention/linear_1")  # type: ignore[arg-type]
        norm(layer.mlp_norm, f"{key}/ffn/layer_norm")  # type: ignore[arg-type]
        linear(layer.up, f"{key}/ffn/linear_0")  # type: ignore[arg-type]
        linear(layer.down, f"{key}/ffn/linear_1")  # type: ignore[arg-type]
    norm(encoder.transformer.norm, "encoder/layer_norm")
