"""The published SpeechTokenizer: exact keys, loading, and each part against its formula."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from speechgpt_gen.models.errors import AudioError, CheckpointError, ConfigError, ModelNotFoundError
from speechgpt_gen.models.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig, load_speech_tokenizer
from speechgpt_gen.models.speech_tokenizer.conv import SConv1d, SConvTranspose1d, WeightNorm, reflect_pad
from speechgpt_gen.models.speech_tokenizer.quantization import ResidualVectorQuantizer
from speechgpt_gen.models.speech_tokenizer.seanet import ResidualBlock, SkipLSTM, Snake

TINY: dict[str, Any] = {
    "n_filters": 2,
    "strides": [8, 5, 4, 2],
    "dimension": 12,
    "semantic_dimension": 10,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "Snake",
    "codebook_size": 16,
    "n_q": 4,
    "sample_rate": 16000,
}
# What the published files have beside: training keys and a second spelling of the rate.
FOREIGN = {
    "resblock": "1",
    "sampling_rate": 16000,
    "batch_size": 60,
    "dist_config": {"world_size": 1},
    "codebook_dim": 512,
}


def _tiny(**changes: Any) -> SpeechTokenizer:
    return SpeechTokenizer(SpeechTokenizerConfig.from_dict({**TINY, **changes})).eval()


@pytest.fixture(scope="module")
def tiny() -> SpeechTokenizer:
    torch.manual_seed(1)
    return _tiny()


@pytest.mark.parametrize("activation", ["ELU", "Snake"])
def test_keys_and_shapes_are_the_published_ones(
    activation: str, published_keys: Callable[[str], dict[str, tuple[int, ...]]]
) -> None:
    expected = published_keys("speech_tokenizer")
    assert len(expected) == 166
    if activation == "Snake":
        expected = expected | published_keys("speech_tokenizer_snake_extra")
        assert len(expected) == 192
    with torch.device("meta"):
        model = SpeechTokenizer(SpeechTokenizerConfig.from_dict({"activation": activation}))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    assert sum(value.numel() for value in model.state_dict().values()) == (
        120_468_874 if activation == "Snake" else 120_461_002
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 1300))
def test_any_recording_has_its_length_in_frames_rounded_up(samples: int) -> None:
    torch.manual_seed(1)
    model = _tiny(lstm_layers=0, n_q=1)
    with torch.no_grad():
        units = model.encode_semantic(torch.randn(1, 1, samples))
        assert units.shape == (1, math.ceil(samples / 320))
        assert model.decode(model.semantic_latents(units)).shape == (1, 1, 320 * units.shape[1])


def test_one_shape_and_dtype_for_each_method(tiny: SpeechTokenizer) -> None:
    with torch.no_grad():
        wav = torch.randn(2, 1, 700)
        codes = tiny.encode(wav)
        assert (codes.shape, codes.dtype) == ((4, 2, 3), torch.int64)
        assert torch.equal(tiny.encode(wav, n_q=2), codes[:2])
        assert torch.equal(tiny.encode_semantic(wav), codes[0])
        assert tiny.latents(codes).shape == (2, 3, 12)
        assert torch.equal(tiny.semantic_latents(codes[0]), tiny.latents(codes[:1]))
        assert tiny.semantic_features(codes[0]).shape == (2, 3, 10)
        assert tiny.decode(tiny.latents(codes)).shape == (2, 1, 960)
        assert (tiny.hop, tiny.sample_rate, tiny.n_q, tiny.dim) == (320, 16000, 4, 12)


def test_semantic_encoding_computes_one_level_only(tiny: SpeechTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    books = list(tiny.quantizer.codebooks())
    for book in books[1:]:
        monkeypatch.setattr(book, "nearest", None)  # would fail if called
    assert tiny.encode_semantic(torch.randn(1, 1, 640)).shape == (1, 2)
    with pytest.raises(TypeError):
        tiny.encode(torch.randn(1, 1, 640))


def test_a_later_start_quantises_the_unmodified_encoder_output(tiny: SpeechTokenizer) -> None:
    wav = torch.randn(1, 1, 640)
    with torch.no_grad():
        encoded = tiny.encoder(wav).transpose(1, 2)
        books = [book.embed for book in tiny.quantizer.codebooks()]
        codes = tiny.encode(wav, n_q=3, st=1)
        first = torch.cdist(encoded, books[1][None]).argmin(-1)
        second = torch.cdist(encoded - books[1][first], books[2][None]).argmin(-1)
        assert torch.equal(codes, torch.stack([first, second]))
        torch.testing.assert_close(tiny.latents(codes, st=1), books[1][first] + books[2][second])


def test_nearest_code_is_the_first_of_equals_and_levels_quantise_what_is_left() -> None:
    quantizer = ResidualVectorQuantizer(levels=2, size=4, dim=2)
    coarse, fine = quantizer.codebooks()
    coarse.embed.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]]))
    fine.embed.copy_(torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    x = torch.tensor([[[4.9, 0.1], [0.0, 0.9], [2.0, 0.0]]])
    assert quantizer.encode(x, 2).tolist() == [[[1, 0, 0]], [[1, 2, 1]]]
    expected = torch.tensor([[[5.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    torch.testing.assert_close(quantizer.decode(quantizer.encode(x, 2)), expected)


def _plain_weight(norm: nn.Module) -> Tensor:
    """The weight of torch's own weight norm, given the same two halves."""
    assert isinstance(norm, WeightNorm)
    holder = nn.Linear(1, 1)
    holder.weight = nn.Parameter(norm.weight_v.detach().clone())
    nn.utils.parametrizations.weight_norm(holder)
    holder.parametrizations.weight.original0.data.copy_(norm.weight_g)  # type: ignore[union-attr]
    return holder.weight.detach()


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 2), (4, 2, 1), (8, 4, 1), (10, 5, 1), (16, 8, 1)]
)
@pytest.mark.parametrize("length", [40, 43])
def test_convolution_sees_the_mirrored_signal(kernel: int, stride: int, dilation: int, length: int) -> None:
    conv = SConv1d(2, 3, kernel, stride, dilation)
    norm = conv.conv["conv"]
    nn.init.uniform_(norm.weight_g, 0.5, 2.0)  # type: ignore[arg-type]
    x = torch.randn(1, 2, length)
    total = (kernel - 1) * dilation - (stride - 1)
    weight, bias = _plain_weight(norm), norm.bias
    frames = math.ceil(length / stride)
    got = conv(x)
    assert got.shape == (1, 3, frames)
    for frame in range(frames):
        taps = []
        for tap in range(kernel):
            at = frame * stride + tap * dilation - (total - total // 2)
            at = abs(at)  # mirrored at sample 0
            at = min(at, 2 * (length - 1) - at)  # mirrored at the last sample
            taps.append(x[0, :, at])
        expected = torch.einsum("oik,ik->o", weight, torch.stack(taps, -1)) + bias
        torch.testing.assert_close(got[0, :, frame], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [2, 4, 5, 8])
def test_upsampling_adds_shifted_kernels(stride: int) -> None:
    layer = SConvTranspose1d(2, 3, stride)
    weight = _plain_weight(layer.convtr["convtr"])
    x = torch.randn(1, 2, 6)
    full = torch.zeros(3, 6 * stride + stride)
    for frame in range(6):
        full[:, frame * stride : (frame + 2) * stride] += torch.einsum("iok,i->ok", weight, x[0, :, frame])
    left = stride - stride // 2
    torch.testing.assert_close(layer(x)[0], full[:, left : left + 6 * stride], atol=1e-5, rtol=1e-5)


def test_padding_of_a_signal_too_short_to_mirror() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert reflect_pad(x, 2, 1).tolist() == [[[3, 2, 1, 2, 3, 2]]]
    # Zeros come first on the right, are mirrored into the left, and are cut again.
    assert reflect_pad(x, 4, 2).tolist() == [[[0, 0, 3, 2, 1, 2, 3, 0, 0]]]


def test_residual_block_is_its_formula() -> None:
    block = ResidualBlock(4, kernel=3, dilation=2, activation="ELU")
    narrow, widen = block.block[1], block.block[3]
    x = torch.randn(2, 4, 9)
    expected = block.shortcut(x) + widen(F.elu(narrow(F.elu(x))))
    torch.testing.assert_close(block(x), expected)


def test_snake_and_skipping_recurrence_are_their_formulas() -> None:
    snake = Snake(3)
    nn.init.uniform_(snake.alpha, 0.5, 2.0)
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(snake(x), x + torch.sin(snake.alpha * x) ** 2 / snake.alpha, atol=1e-6, rtol=1e-5)
    lstm = SkipLSTM(3, layers=1, bidirectional=True)
    backwards = lstm(x.flip(-1)).flip(-1)
    forwards = lstm(x)
    assert forwards.shape == (2, 6, 5)
    cell = nn.LSTMCell(3, 3)
    cell.load_state_dict(
        {key.removesuffix("_l0"): v for key, v in lstm.lstm.state_dict().items() if key.endswith("_l0")}
    )
    state = (torch.zeros(2, 3), torch.zeros(2, 3))
    for frame in range(5):
        state = cell(x[..., frame], state)
        torch.testing.assert_close(forwards[:, :3, frame], state[0] + x[..., frame])
    assert not torch.allclose(backwards[:, :3], forwards[:, :3])  # time has a direction


def _written(tmp_path: Path, config: dict[str, Any], state: object, name: str = "a.pt") -> tuple[Path, Path]:
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(state, tmp_path / name)
    return tmp_path / "config.json", tmp_path / name


@pytest.mark.parametrize("spelling", ["flat", "parametrizations", "trainer", "safetensors"])
def test_every_published_spelling_loads_to_the_same_model(tiny: SpeechTokenizer, tmp_path: Path, spelling: str) -> None:
    state = {key: value.clone() for key, value in tiny.state_dict().items()}
    if spelling == "parametrizations":
        state = {
            key.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): value
            for key, value in state.items()
        }
    whole = {"generator": state, "optim_g": {"state": {}}, "best_dev_mel_loss": 0.3} if spelling == "trainer" else state
    config, checkpoint = _written(tmp_path, TINY | FOREIGN, whole)
    if spelling == "safetensors":
        checkpoint = tmp_path / "a.safetensors"
        save_file(state, checkpoint)
    loaded = load_speech_tokenizer(config, checkpoint)
    assert not loaded.training
    wav = torch.randn(1, 1, 1000)
    with torch.no_grad():
        assert torch.equal(loaded.encode(wav), tiny.encode(wav))
        latents = torch.randn(1, 3, 12)
        torch.testing.assert_close(loaded.decode(latents), tiny.decode(latents))


def test_wrong_checkpoints_are_named(tiny: SpeechTokenizer, tmp_path: Path) -> None:
    state = tiny.state_dict()
    with pytest.raises(CheckpointError, match="missing"):
        load_speech_tokenizer(*_written(tmp_path, TINY, {key: state[key] for key in list(state)[3:]}))
    with pytest.raises(CheckpointError, match=r"26 extra \(encoder\.model\.1\.block\.0\.alpha"):
        load_speech_tokenizer(*_written(tmp_path, TINY | {"activation": "ELU"}, state))
    with pytest.raises(CheckpointError, match="mis-shaped"):
        load_speech_tokenizer(*_written(tmp_path, TINY | {"codebook_size": 17}, state))
    config, checkpoint = _written(tmp_path, TINY, state)
    with pytest.raises(ModelNotFoundError):
        load_speech_tokenizer(config, tmp_path / "none.pt")
    with pytest.raises(ModelNotFoundError):
        load_speech_tokenizer(tmp_path / "none.json", checkpoint)
    for text in ("{", "[]"):
        config.write_text(text)
        with pytest.raises(ConfigError, match=r"config\.json"):
            load_speech_tokenizer(config, checkpoint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_q", 0),
        ("n_q", "8"),
        ("strides", []),
        ("strides", [8, 0]),
        ("strides", "8542"),
        ("activation", "ReLU"),
        ("bidirectional", 1),
        ("dimension", True),
        ("lstm_layers", -1),
        ("residual_kernel_size", 4),
        ("sample_rate", None),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        SpeechTokenizerConfig.from_dict({**TINY, key: value})


def test_bad_calls_are_refused(tiny: SpeechTokenizer) -> None:
    for shape in [(1, 1, 0), (1, 2, 320), (1, 320)]:
        with pytest.raises(AudioError, match="mono"):
            tiny.encode(torch.zeros(shape))
    for n_q, start in [(5, 0), (0, 0), (2, 2), (2, -1)]:
        with pytest.raises(ConfigError, match="levels 0 to 3"):
            tiny.encode(torch.zeros(1, 1, 320), n_q, start)
    with pytest.raises(ConfigError, match="1 to 3 levels"):
        tiny.latents(torch.zeros(4, 1, 2, dtype=torch.int64), st=1)
