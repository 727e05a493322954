"""Weights of a Whisper encoder land where the causal encoder computes the same with them."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechgpt_gen.models.errors import ConfigError, ModelNotFoundError
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoder, SemanticEncoderConfig
from speechgpt_gen.models.training import semantic_units
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.semantic_units import SemanticUnitsConfig
from speechgpt_gen.models.training.whisper import read_ctranslate2, start_from_whisper

DIM, BANDS = 16, 20
CONFIG = SemanticEncoderConfig(bands=BANDS, dim=DIM, layers=2, heads=2, window=8, lookahead=2, reader_dim=8)


def variables() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/weight": (DIM, BANDS, 3),
        "conv1/bias": (DIM,),
        "conv2/weight": (DIM, DIM, 3),
        "conv2/bias": (DIM,),
        "layer_norm/gamma": (DIM,),
        "layer_norm/beta": (DIM,),
    }
    for n in range(3):
        for part in ("self_attention", "ffn"):
            wide = 3 * DIM if part == "self_attention" else 4 * DIM
            narrow = DIM if part == "self_attention" else 4 * DIM
            shapes |= {
                f"layer_{n}/{part}/layer_norm/gamma": (DIM,),
                f"layer_{n}/{part}/layer_norm/beta": (DIM,),
                f"layer_{n}/{part}/linear_0/weight": (wide, DIM),
                f"layer_{n}/{part}/linear_0/bias": (wide,),
                f"layer_{n}/{part}/linear_1/weight": (DIM, narrow),
                f"layer_{n}/{part}/linear_1/bias": (DIM,),
            }
    return {f"encoder/{name}": rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}


def write(path: Path, values: dict[str, np.ndarray], version: int = 6) -> None:
    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(values))
    for name, value in values.items():
        out += text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        out += struct.pack("<BI", 4, value.nbytes) + value.tobytes()
    path.write_bytes(out)


def test_the_encoder_takes_the_first_layers(tmp_path: Path) -> None:
    values = variables()
    write(tmp_path / "model.bin", values)
    encoder = SemanticEncoder(CONFIG)
    start_from_whisper(encoder, tmp_path)
    layer = encoder.transformer.layers[1]
    taken = {
        "encoder/conv2/weight": encoder.front[2].weight,
        "encoder/layer_1/self_attention/linear_0/weight": layer.qkv.weight,
        "encoder/layer_1/ffn/linear_1/bias": layer.down.bias,
        "encoder/layer_norm/gamma": encoder.transformer.norm.weight,
    }
    for name, parameter in taken.items():
        assert torch.equal(parameter, torch.from_numpy(values[name]).float()), name


def test_layers_beyond_those_of_whisper_begin_by_adding_nothing(tmp_path: Path) -> None:
    values = variables()
    write(tmp_path / "model.bin", values)
    longer, encoder = (SemanticEncoder(replace(CONFIG, layers=layers)) for layers in (5, 3))
    for each in (longer, encoder):
        start_from_whisper(each, tmp_path)
    last = torch.from_numpy(values["encoder/layer_2/ffn/linear_1/weight"]).float()
    assert torch.equal(longer.transformer.layers[2].down.weight, last)
    mel = torch.randn(1, BANDS, 40)
    assert torch.equal(longer.hidden(mel), encoder.hidden(mel))
    longer.hidden(mel).square().mean().backward()
    assert longer.transformer.layers[4].down.weight.grad.abs().max() > 0  # and learn all the same


def test_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    values = variables()
    del values["encoder/layer_1/ffn/linear_0/bias"]
    write(tmp_path / "model.bin", values)
    with pytest.raises(ConfigError, match="layer_1/ffn/linear_0/bias"):
        start_from_whisper(SemanticEncoder(CONFIG), tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x06\0\0\0\xff\xff", None])
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.bin"
    if content is None:
        write(path, variables(), version=5)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_ctranslate2(path)
    assert "\n" not in str(caught.value)


def test_layers_that_are_held_are_whispers_where_no_model_gives_them(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = prepare(source, tmp_path / "corpus", progress=False)
    write(tmp_path / "model.bin", variables())
    monkeypatch.setattr(semantic_units, "whisper_folder", lambda: tmp_path)
    config = SemanticUnitsConfig(CONFIG, LoopConfig(steps=2, warmup=1), batch_seconds=6.0, hold=1)
    made = semantic_units.train(corpus, tmp_path / "held", config).encoder
    expected = SemanticEncoder(CONFIG)
    start_from_whisper(expected, tmp_path)
    for name, value in made.transformer.layers[0].state_dict().items():
        assert torch.equal(value, expected.transformer.layers[0].state_dict()[name]), name

    def nobody() -> Path:
        raise ModelNotFoundError("no whisper-base here")

    monkeypatch.setattr(semantic_units, "whisper_folder", nobody)
    semantic_units.train(corpus, tmp_path / "held", config)  # goes on from its checkpoint
    with pytest.raises(ModelNotFoundError):
        semantic_units.train(corpus, tmp_path / "elsewhere", config)
