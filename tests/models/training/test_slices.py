"""Training in slices: what travels fits its limits, nothing need be installed, and the pieces make a model."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn
from transformers import HubertConfig, HubertModel

from speechgpt_gen import SpeechGPTGen
from speechgpt_gen.models.errors import CheckpointError, ConfigError
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer
from speechgpt_gen.models.training.recipe import load_recipe
from speechgpt_gen.models.training.semantic_units import SemanticUnits
from speechgpt_gen.models.training.slices import pieces
from speechgpt_gen.models.training.slices.assemble import assemble_slices
from speechgpt_gen.models.training.slices.pack import unpacked, write_packs

ROOT = Path(__file__).parents[3]
ENCODER = "{bands = 16, dim = 16, layers = 1, heads = 2, window = 16, lookahead = 2, detail = 3}"
RECIPE = f"""
restate = true
voices = ["ann"]
prompt_frames = 20
[units]
batch_seconds = 6.0
encoder = {ENCODER}
loop = {{steps = 2, warmup = 1}}
[acoustic]
continuous_steps = 0
batch = 2
crop_frames = 16
tokenizer = {{encoder_dim = 16, encoder_layers = 1, decoder_dim = 16, decoder_layers = 1, heads = 2, reach = 8, \
latent_dim = 8, n_q = 4, semantic = {ENCODER}}}
loop = {{steps = 2, warmup = 1}}
[decoder]
batch = 2
crop_frames = 16
loop = {{steps = 2, warmup = 1, ema = 0.9}}
[semantic]
text_tokens = 140
hidden_size = 32
intermediate_size = 48
layers = 2
heads = 2
kv_heads = 1
row_tokens = 400
rows = 2
unit_noise = 0.1
loop = {{steps = 2, warmup = 1, ema = 0.9}}
[recognizer]
model = {{dim = 16, layers = 1, kernel = 5}}
loop = {{steps = 2, warmup = 1, ema = 0.9}}
[perceptual]
batch_frames = 200
model = {{latent_dim = 8, dim = 16, depth = 1, heads = 2, detail = 3}}
loop = {{steps = 2, warmup = 1, ema = 0.9}}
[ablation]
batch_frames = 200
model = {{latent_dim = 8, dim = 16, depth = 1, heads = 2}}
loop = {{steps = 4, warmup = 1, ema = 0.9, save_every = 1}}
"""
# What the machine of a slice has not: only torch, numpy, scipy, transformers, safetensors, tokenizers are there.
ABSENT = ["aiortc", "av", "num2words", "pydantic", "rich", "soxr", "starlette", "tensorboard", "typer", "webrtcvad"]
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.argv[0] = "slices"
runpy.run_module("speechgpt_gen.models.training.slices", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def no_speech(tmp_path: Path) -> Path:
    """A second corpus, of one sound without speech in a shard of the first one's name."""
    folder = tmp_path / "no-speech"
    (folder / "shards").mkdir(parents=True)
    header = "id\tshard\tspeaker\tspeed\tseconds\tkind\tpair\tsplit\ttext"
    (folder / "manifest.tsv").write_text(f"{header}\nn0\tA.tar\tnobody\t1.0\t1.0\tnothing\t\ttrain\t\n")
    soundfile.write(tmp_path / "n0.ogg", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000, subtype="OPUS")
    with tarfile.open(folder / "shards" / "A.tar", "w") as archive:
        archive.add(tmp_path / "n0.ogg", "n0.ogg")
    return folder


@pytest.fixture
def packs(source: Path, no_speech: Path, tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    write_packs([source, no_speech], tmp_path / "packs", recipe, wheels=False)
    return tmp_path / "packs"


def run_slice(packs: Path, stage: str, out: Path, *resume: Path, minutes: str = "1") -> dict[str, float]:
    """A slice on a machine with nothing installed."""
    command = [sys.executable, "-c", BARE, stage, minutes, str(out), *map(str, resume)]
    options = ["--packs", str(packs), "--shipped", "tiny"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(out.iterdir())) <= 8
    assert all(path.stat().st_size < 16 * 2**20 for path in out.iterdir())
    figures: dict[str, float] = json.loads((out / "figures.json").read_text())
    return figures


@pytest.mark.slow
def test_slices_of_all_stages_make_a_model_that_speaks(packs: Path, tmp_path: Path) -> None:
    out = {
        stage: tmp_path / "out" / stage for stage in ("tokenizer", "decoder", "semantic", "recognizer", "perceptual")
    }
    figures = run_slice(packs, "tokenizer", out["tokenizer"])
    assert figures["cer_reconstructed"] > 0
    assert figures["items_per_second"] > 0
    first = pieces.read_pieces(out["tokenizer"], "tokenizer")
    run_slice(packs, "tokenizer", out["tokenizer"], out["tokenizer"])  # goes on: the units are settled
    again = pieces.read_pieces(out["tokenizer"], "tokenizer")
    same = {key for key in first if torch.equal(first[key], again[key])}
    assert {key for key in first if key.startswith(("semantic.", *pieces.READERS))} <= same
    assert "decoder.head.weight" not in same
    run_slice(packs, "decoder", out["decoder"], out["tokenizer"])
    assert "cer_reconstructed" in run_slice(packs, "decoder", out["decoder"], out["decoder"], out["tokenizer"])
    run_slice(packs, "semantic", out["semantic"], out["tokenizer"])
    resumed = run_slice(packs, "semantic", out["semantic"], out["semantic"], out["tokenizer"])
    assert resumed["gemm_share"] > 0
    run_slice(packs, "recognizer", out["recognizer"], out["tokenizer"])
    assert (
        run_slice(packs, "recognizer", out["recognizer"], out["recognizer"], out["tokenizer"])["items_per_second"] > 0
    )
    figures = run_slice(packs, "perceptual", out["perceptual"], out["tokenizer"])
    assert "cer_spoken_again" in figures
    parts = {json.loads(line)["part"] for line in (out["semantic"] / "log.jsonl").read_text().splitlines()}
    assert parts == {"semantic"}

    out["ablation"] = tmp_path / "out" / "ablation"
    first_slice = run_slice(packs, "ablation", out["ablation"], out["tokenizer"])
    lines = (out["ablation"] / "ablation.jsonl").read_text().splitlines()
    later = run_slice(packs, "ablation", tmp_path / "later", out["ablation"], out["tokenizer"])
    more = (tmp_path / "later" / "ablation.jsonl").read_text().splitlines()
    assert 1 <= first_slice["variants"] <= later["variants"] <= later["variants_wanted"] == 6
    # The first variant of a slice is trained however little time is left, so that slices always get on.
    assert first_slice["variants"] == 6 or later["variants"] > first_slice["variants"]
    assert more[: len(lines)] == lines
    cells = {(each["variant"], each["step"], each["nfe"]) for each in map(json.loads, more)}
    assert len(cells) == len(more) == later["variants"] * (2 + 5)
    assert (tmp_path / "later" / "variant-implicit-semantic-0-00.safetensors").is_file()

    recipe = load_recipe(packs / "pack-00" / "recipe.toml")
    assemble_slices([*out.values()], recipe, tmp_path / "model", shipped="tiny")
    model = SpeechGPTGen.load(tmp_path / "model")
    assert list(model.voices) == ["ann"]
    recognizer = model.bundle.recognizer
    assert recognizer is not None
    assert "calm" in recognizer.words.written
    taught = pieces.read_pieces(out["recognizer"], "recognizer")["letters.weight"]
    assert (recognizer.reader.letters.weight - taught).abs().max() < 0.01
    taught = pieces.read_pieces(out["decoder"], "decoder")["head.weight"]
    assert (model.bundle.tokenizer.decoder.head.weight - taught).abs().max() < 0.01
    assert (again["decoder.head.weight"] - taught).abs().max() > 0
    shutil.copytree(out["tokenizer"], tmp_path / "other")
    state = pieces.read_pieces(tmp_path / "other", "tokenizer")
    state["codebooks.vectors"] += 1
    units = pieces.units_of_pieces(tmp_path / "other", "tokenizer")
    pieces.write_pieces(state, tmp_path / "other", "tokenizer", units=units)
    with pytest.raises(CheckpointError, match="another codec's latents"):
        assemble_slices([*out.values(), tmp_path / "other"], recipe, tmp_path / "mixed", shipped="tiny")
    with pytest.raises(CheckpointError, match="semantic model was trained on other units"):
        assemble_slices([out["tokenizer"]], recipe, tmp_path / "half", shipped="tiny")
    pieces.write_pieces(recognizer.reader.state_dict(), out["recognizer"], "recognizer", units="others")
    with pytest.raises(CheckpointError, match="recognizer was trained on other units"):
        assemble_slices([*out.values()], recipe, tmp_path / "deaf", shipped="tiny")


def test_the_shell_script_names_a_missing_pack(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "models/training/gpu_slice.sh"), "semantic", "1", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": sys.executable, "PACKS": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no pack-00")
    assert "Traceback" not in done.stderr


def test_packs_keep_their_limit_and_come_together_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechgpt_gen.models.training.slices.pack.MAX_BYTES", 40_000)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    corpora = {"many": ("A.tar", "B.tar"), "other": ("A.tar",)}
    for folder, names in corpora.items():
        (tmp_path / folder / "shards").mkdir(parents=True)
        (tmp_path / folder / "manifest.tsv").write_text(f"{folder}\n")
        for name in names:
            (tmp_path / folder / "shards" / name).write_bytes(bytes(25_000))
    packs = write_packs([tmp_path / folder for folder in corpora], tmp_path / "packs", recipe, wheels=False)
    assert len(packs) == 3
    assert max(packs) <= 40_000
    joined = unpacked(tmp_path / "packs", tmp_path / "joined")
    assert [(each / "manifest.tsv").read_text().strip() for each in joined] == ["many", "other"]
    assert [tuple(sorted(p.name for p in (each / "shards").iterdir())) for each in joined] == [*corpora.values()]
    shutil.rmtree(tmp_path / "packs" / "pack-01")
    with pytest.raises(ConfigError, match="lacks pack-01"):
        unpacked(tmp_path / "packs", tmp_path / "again")


def test_pieces_of_nano_are_few_enough_and_small_enough(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "models" / "training" / "nano.toml")
    tokenizer = StreamingSpeechTokenizer(recipe.acoustic.tokenizer)
    units = SemanticUnits(recipe.units, 500)
    readers = {key: value for key, value in units.state_dict().items() if key.startswith(pieces.READERS)}
    count = pieces.write_pieces(tokenizer.state_dict() | readers, tmp_path, "tokenizer", units="")
    assert count <= 8 - len(("log.jsonl", "figures.json", "samples.wav"))
    assert all(path.stat().st_size < 16 * 2**20 for path in tmp_path.iterdir())


def test_weights_travel_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_BYTES", 20_000)
    module = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64), nn.BatchNorm1d(64))
    count = pieces.write_pieces(module.state_dict(), tmp_path, "part", units="")
    assert count == 2
    assert all(path.stat().st_size < 21_000 for path in tmp_path.iterdir())
    state = pieces.read_pieces(tmp_path, "part")
    for key, value in module.state_dict().items():
        wanted = value.half().to(value.dtype) if value.numel() >= 4096 and value.is_floating_point() else value
        assert torch.equal(state[key], wanted), key
    (tmp_path / "part-01.safetensors").unlink()
    with pytest.raises(CheckpointError, match="part-01"):
        pieces.read_pieces(tmp_path, "part")
    with torch.no_grad():
        module[0].weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"0\.weight is not finite"):
        pieces.write_pieces(module.state_dict(), tmp_path, "part", units="")


@pytest.mark.slow
def test_a_teacher_travels_with_the_packs(source: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    HubertModel(HubertConfig(**sizes)).save_pretrained(tmp_path / "hubert")
    recipe = tmp_path / "recipe.toml"
    taught = f'[units]\nteacher = "{tmp_path / "hubert"}"\ndistillation = 1.0\nrecognition = 0.0'
    recipe.write_text(RECIPE.replace("[units]", taught))
    write_packs([source], tmp_path / "packs", recipe, wheels=False)
    shutil.rmtree(tmp_path / "hubert")
    run_slice(tmp_path / "packs", "tokenizer", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert all(0.3 < line["distillation"] < 1.4 for line in lines if line["part"] == "units")
    assert any(line["part"] == "units" for line in lines)
