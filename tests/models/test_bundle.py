"""Bundles: by name, by folder, and one line for every folder that is not one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechgpt_gen.models.bundle import Bundle, load_bundle, save_bundle
from speechgpt_gen.models.errors import CheckpointError, ConfigError, ModelNotFoundError, SpeechGPTGenError
from speechgpt_gen.models.packing import pack, unpack
from speechgpt_gen.models.recognition.reader import LetterReader, ReaderConfig
from speechgpt_gen.models.recognition.recognizer import Recognizer
from speechgpt_gen.models.recognition.word_model import WordModel


@pytest.fixture(scope="module")
def tiny() -> Bundle:
    return load_bundle("tiny")


@pytest.fixture
def folder(tiny: Bundle, tmp_path: Path) -> Path:
    save_bundle(tiny, tmp_path / "model")
    return tmp_path / "model"


def states(bundle: Bundle) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{key}": value
        for part in ("tokenizer", "semantic", "perceptual")
        for key, value in getattr(bundle, part).state_dict().items()
    }


def test_tiny_is_the_same_every_time_and_leaves_the_generator_alone(tiny: Bundle) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = load_bundle("tiny")
    assert torch.equal(torch.rand(3), expected)
    for key, value in states(again).items():
        assert torch.equal(value, states(tiny)[key]), key


def test_a_folder_is_read_as_it_was_written(tiny: Bundle, folder: Path) -> None:
    loaded = load_bundle(folder)
    assert loaded.config == tiny.config
    assert loaded.info.name == "model"
    for key, value in states(tiny).items():
        assert torch.equal(value, states(loaded)[key]), key
    assert list(loaded.voices) == list(tiny.voices)
    for name, voice in tiny.voices.items():
        assert torch.equal(voice.units, loaded.voices[name].units)
        assert torch.equal(voice.latents, loaded.voices[name].latents)
    assert not any(parameter.requires_grad for parameter in loaded.semantic.parameters())
    assert not loaded.perceptual.training


def test_packed_weights_are_close(tiny: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_bundle(tiny, tmp_path, {"semantic": "int8", "perceptual": "float16", "tokenizer": "bfloat16"})
    caplog.set_level("INFO", "speechgpt_gen.models.bundle")
    for key, value in states(load_bundle(tmp_path)).items():
        wanted = states(tiny)[key]
        assert value.dtype == wanted.dtype
        if value.is_floating_point():
            torch.testing.assert_close(value, wanted, rtol=0.01, atol=0.02)
    holds = [(Path(str(record.args[0])).stem, record.args[1]) for record in caplog.records if record.args]  # type: ignore[index]
    assert holds == [("tokenizer", "bfloat16"), ("perceptual", "float16")]
    assert load_file(tmp_path / "semantic.safetensors")["lm_head.weight.int8"].dtype == torch.int8


def test_int8_rounds_to_the_nearest_step_of_its_row() -> None:
    weight = torch.randn(40, 200) * torch.logspace(-3, 2, 40)[:, None]
    restored = unpack(pack({"w": weight}, "int8"), "file")["w"]
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((restored - weight).abs() <= 0.501 * step).all()
    assert torch.equal(unpack(pack({"w": torch.zeros(64, 64)}, "int8"), "file")["w"], torch.zeros(64, 64))


def test_an_int8_without_its_scale_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no scale"):
        unpack({"w.int8": torch.zeros(4, 4, dtype=torch.int8)}, "file")


def test_a_precision_is_that_of_the_parameters_and_buffers_keep_theirs() -> None:
    bundle = load_bundle("tiny", precision="bfloat16")
    assert bundle.semantic.lm_head.weight.dtype == torch.bfloat16
    assert bundle.perceptual.out_proj.weight.dtype == torch.bfloat16
    assert bundle.perceptual.rope_frequencies.dtype == torch.float32
    assert next(bundle.tokenizer.parameters()).dtype == torch.float32
    with pytest.raises(ConfigError, match="unknown precision 'float64'"):
        load_bundle("tiny", precision="float64")


def test_int8_keeps_what_the_models_compute(tiny: Bundle) -> None:
    light = load_bundle("tiny", precision="int8")
    assert not any(type(module) is torch.nn.Linear for module in light.semantic.modules())
    tokens = torch.randint(tiny.vocabulary.size, (1, 20))
    wanted, found = tiny.semantic(tokens), light.semantic(tokens)
    assert torch.nn.functional.cosine_similarity(wanted, found, dim=-1).min() > 0.99


def test_voices_are_found_by_name_or_are_refused(tiny: Bundle) -> None:
    assert tiny.voice(None).name == "first"
    assert tiny.voice("second").name == "second"
    with pytest.raises(ConfigError, match="unknown voice 'third': choose one of first, second"):
        tiny.voice("third")
    alien = type(tiny.voice(None))("alien", torch.zeros(3, dtype=torch.int64), torch.zeros(3, 99))
    with pytest.raises(ConfigError, match="another model"):
        tiny.voice(alien)


@pytest.fixture
def reading(tiny: Bundle, tmp_path: Path) -> Path:
    """The folder of a bundle that reads what it hears letter by letter."""
    torch.manual_seed(6)
    reader = LetterReader(ReaderConfig(dim=64, layers=1, detail=3))
    torch.nn.init.normal_(reader.layers[0].down.weight)  # type: ignore[union-attr]
    recognizer = Recognizer(reader.eval(), WordModel.fit([("How are you?", 1.0)]))
    config = replace(tiny.config, restate=True, recognizer=reader.config)
    save_bundle(replace(tiny, config=config, recognizer=recognizer), tmp_path / "reading", {"recognizer": "int8"})
    return tmp_path / "reading"


def test_a_recognizer_goes_with_its_bundle(reading: Path) -> None:
    loaded, light = load_bundle(reading), load_bundle(reading, precision="int8")
    assert loaded.recognizer is not None
    assert light.recognizer is not None
    assert set(loaded.recognizer.words.written) == {"how", "are", "you"}
    assert loaded.info.parameters["recognizer"] == sum(p.numel() for p in loaded.recognizer.reader.parameters())
    units = torch.randint(1024 * 64, (1, 40))
    wanted, found = loaded.recognizer.reader(units), light.recognizer.reader(units)
    assert 0 < (wanted - found).abs().max() < 0.5, "in int8 nearly the same"
    assert torch.equal(wanted, load_bundle(reading).recognizer.reader(units))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda f: (f / "recognizer.safetensors").unlink(), ModelNotFoundError, "recognizer.safetensors"),
        (lambda f: (f / "words.safetensors").unlink(), ModelNotFoundError, "words.safetensors"),
        (lambda f: resave(f / "words.safetensors", "1.first"), CheckpointError, "words.safetensors holds no word mod"),
        (
            lambda f: part(f, "recognizer", detail=2),
            ConfigError,
            "recognizer takes 2 digits of detail, the tokenizer hears 3",
        ),
        (lambda f: part(f, "recognizer", kernel=2), ConfigError, "the reader's kernel is 2 frames: give an odd number"),
        (lambda f: edit(f, restate=False), ConfigError, "set restate, or leave it out"),
    ],
)
def test_a_spoilt_recognizer_is_named_in_one_line(reading: Path, spoil, error, words: str) -> None:  # type: ignore[no-untyped-def]
    spoil(reading)
    with pytest.raises(error, match=words) as caught:
        load_bundle(reading)
    assert "\n" not in str(caught.value)


def edit(folder: Path, **changes: object) -> None:
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | changes))


def part(folder: Path, name: str, **changes: object) -> None:
    edit(folder, **{name: json.loads((folder / "config.json").read_text())[name] | changes})


def resave(path: Path, drop: str | None = None, **extra: torch.Tensor) -> None:
    state = load_file(path)
    if drop is not None:
        del state[drop]
    save_file(state | extra, path)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda f: (f / "config.json").unlink(), ModelNotFoundError, "config.json"),
        (lambda f: (f / "perceptual.safetensors").unlink(), ModelNotFoundError, "perceptual.safetensors"),
        (lambda f: (f / "vocabulary.json").unlink(), ModelNotFoundError, "vocabulary.json"),
        (lambda f: (f / "config.json").write_text("{"), ConfigError, "not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ConfigError, "give an object"),
        (lambda f: edit(f, format="other"), ConfigError, "'other': give 'speechgpt-gen'"),
        (lambda f: edit(f, tokeniser={}), ConfigError, "unknown key 'tokeniser'"),
        (lambda f: edit(f, voices=[]), ConfigError, "voices is empty"),
        (lambda f: edit(f, voices=["first"]), CheckpointError, "second"),
        (lambda f: edit(f, solver={"method": "heun", "nfe": 2}), ConfigError, "heun"),
        (lambda f: edit(f, blocks={"sizes": [0]}), ConfigError, "block"),
        (lambda f: part(f, "semantic", detail=0), ConfigError, "hears 3 digits of detail, the semantic model takes 0"),
        (lambda f: part(f, "perceptual", detail=2), ConfigError, "perceptual model takes 2 digits of detail"),
        (lambda f: part(f, "semantic", detail=29), ConfigError, "do not go into 63 bits"),
        (lambda f: (f / "semantic.safetensors").write_bytes(b"\x00" * 50), CheckpointError, "semantic.safetensors"),
        (lambda f: (f / "semantic.safetensors").write_bytes(b""), CheckpointError, "semantic.safetensors"),
        (lambda f: resave(f / "semantic.safetensors", "lm_head.weight"), CheckpointError, "lm_head.weight"),
        (lambda f: resave(f / "perceptual.safetensors", bonus=torch.zeros(1)), CheckpointError, "bonus"),
        (
            lambda f: resave(f / "perceptual.safetensors", **{"out_proj.weight": torch.zeros(3, 3)}),
            CheckpointError,
            "out_proj.weight",
        ),
        (lambda f: resave(f / "voices.safetensors", "first.units"), CheckpointError, "first.units"),
        (
            lambda f: resave(f / "voices.safetensors", **{"first.units": torch.zeros(2, 2)}),
            CheckpointError,
            "voice 'first'",
        ),
    ],
)
def test_a_spoilt_folder_is_named_in_one_line(folder: Path, spoil, error: type[SpeechGPTGenError], words: str) -> None:  # type: ignore[no-untyped-def]
    spoil(folder)
    with pytest.raises(error, match=words) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_devices_are_refused() -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model 'nanno': give .*tiny"):
        load_bundle("nanno")
    with pytest.raises(ConfigError, match="device 'abacus'"):
        load_bundle("tiny", device="abacus")
