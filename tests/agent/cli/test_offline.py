"""The offline commands on the tiny model: what they write, and the one line that each mistake gets."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import typer
from typer.testing import CliRunner, Result

from speechgpt_gen.agent.cli.offline import register
from speechgpt_gen.models.bundle import load_bundle, save_bundle

FAST = ["--model", "tiny", "--precision", "float32"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with good and bad recordings."""
    time = np.arange(16_000) / 16_000
    sf.write(tmp_path / "voice.wav", 0.3 * np.sin(2 * np.pi * 200 * time), 16_000)
    sf.write(
        tmp_path / "stereo.wav",
        np.stack([0.3 * np.sin(2 * np.pi * 200 * np.arange(26_000) / 44_100)] * 2, axis=1),
        44_100,
    )
    sf.write(tmp_path / "one.wav", np.ones(1) * 0.1, 16_000)
    sf.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    sf.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is no sound")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    "command",
    [
        ["say", "Hello there", "--max-seconds", "0.4"],
        ["say", "Hello there", "--max-seconds", "0.4", "--voice", "stereo.wav"],
        ["say", "Hello there", "--max-seconds", "0.4", "--voice", "second"],
        ["convert", "stereo.wav"],
        ["talk", "stereo.wav", "--max-seconds", "0.4"],
        ["talk", "stereo.wav", "--max-seconds", "0.4", "--mode", "direct"],
    ],
)
def test_speech_is_written_and_told_as_json(folder: Path, command: list[str]) -> None:
    result = run(*command, *FAST, "-o", "out.wav", "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    pcm, rate = sf.read(folder / "out.wav", dtype="float32")
    assert rate == 16_000
    assert len(pcm) == 320 * figures["units"] > 0
    assert figures["seconds"] == pytest.approx(len(pcm) / 16_000)
    assert {"load", "first_audio", "speak", "total"} <= set(figures["timings_ms"])
    assert ("transcript" in figures) == (command[0] == "talk")


def test_the_same_seed_gives_the_same_sound(folder: Path) -> None:
    for name in ("a.wav", "b.wav"):
        assert run("say", "Hello", "--max-seconds", "0.3", *FAST, "-o", name, "--seed", "7").exit_code == 0
    assert run("say", "Hello", "--max-seconds", "0.3", *FAST, "-o", "c.wav", "--seed", "8").exit_code == 0
    assert (folder / "a.wav").read_bytes() == (folder / "b.wav").read_bytes()
    assert (folder / "a.wav").read_bytes() != (folder / "c.wav").read_bytes()


def test_sound_streams_to_standard_output(folder: Path) -> None:
    result = run("convert", "stereo.wav", *FAST, "-o", "-", "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stderr)
    header, data = result.stdout_bytes[:44], result.stdout_bytes[44:]
    assert (header[:4], header[8:16], header[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
    assert len(data) == 640 * figures["units"]
    run("convert", "stereo.wav", *FAST, "-o", "out.wav")
    written, _ = sf.read(folder / "out.wav", dtype="int16")
    assert np.abs(np.frombuffer(data, "<i2").astype(int) - written).max() <= 1


def test_a_recording_is_transcribed(folder: Path) -> None:
    result = run("transcribe", "stereo.wav", *FAST, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert set(figures) == {"model", "text", "units", "seconds", "timings_ms"}
    assert run("transcribe", "stereo.wav", *FAST).stdout.strip() == figures["text"]


def test_models_are_listed_with_their_sizes(folder: Path) -> None:
    model = folder / "mine"
    model.mkdir()
    bundle = load_bundle("tiny")
    save_bundle(bundle, model)
    result = run("models", str(model), "--json")
    assert result.exit_code == 0, result.output
    mine = next(entry for entry in json.loads(result.stdout)["models"] if entry["name"] == str(model))
    stored = {part: sum(t.numel() for t in getattr(bundle, part).state_dict().values()) for part in mine["parameters"]}
    assert mine["parameters"] == stored
    assert mine["bytes"] == sum(file.stat().st_size for file in model.iterdir())
    assert mine["voices"] == list(bundle.voices)
    assert "tiny" in run("models").stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["say", "!!!", "-o", "x.wav"], "nothing"),
        (["say", "a" * 5000, "-o", "x.wav"], "characters"),
        (["say", "hi", "-o", "missing/x.wav"], "missing/x.wav"),
        (["say", "hi", "-o", "."], "is a folder"),
        (["say", "hi", "-o", "x.wav", "--voice", "nobody"], "nobody"),
        (["say", "hi", "-o", "x.wav", "--voice", "one.wav"], "voice 'one'"),
        (["say", "hi", "-o", "x.wav", "--device", "warp"], "warp"),
        (["talk", "none.wav", "-o", "x.wav"], "none.wav"),
        (["talk", "text.wav", "-o", "x.wav"], "text.wav"),
        (["talk", "empty.wav", "-o", "x.wav"], "empty.wav"),
        (["talk", "voice.wav", "-o", "x.wav", "--mode", "loud"], "loud"),
        (["convert", "nan.wav", "-o", "x.wav"], "NaN"),
        (["transcribe", "empty.wav"], "empty.wav"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(folder: Path, command: list[str], words: str) -> None:
    result = run(*command, *FAST)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not (folder / "x.wav").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "config.json"),
        ({"config.json": "{"}, "not JSON"),
        ({"config.json": '{"format": "other"}'}, "format"),
        ({"config.json": '{"format": "speechgpt-gen"}'}, "tokenizer.safetensors"),
        ({"config.json": '{"format": "speechgpt-gen"}', "tokenizer.safetensors": "xx"}, "not a safetensors file"),
    ],
)
def test_folders_that_are_no_models_are_told(folder: Path, files: dict[str, str], words: str) -> None:
    (folder / "bad").mkdir()
    for name, content in files.items():
        (folder / "bad" / name).write_text(content)
    result = run("models", "bad")
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error(folder: Path) -> None:
    code = "import typer; from speechgpt_gen.agent.cli.offline import register; a = typer.Typer(); register(a); a()"
    arguments = [sys.executable, "-c", code, "convert", "stereo.wav", *FAST, "-o", "-"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(44)[:4] == b"RIFF"
        process.stdout.close()
        errors = io.TextIOWrapper(process.stderr).read()
    assert "Traceback" not in errors
