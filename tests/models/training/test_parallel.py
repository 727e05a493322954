"""Two processes train as one does that averages two batches, and go on where they stopped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speechgpt_gen.models.audio import load_audio
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training.loop import Loop, LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from tests.models.training.test_recipe import RECIPE
from tests.models.training.test_recognition import RECOGNIZER

ROOT = Path(__file__).parents[3]
TRAIN = """
import atexit, os, sys
import torch
from pathlib import Path
from speechgpt_gen.models.perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from speechgpt_gen.models.semantic.llama import SemanticConfig, SemanticModel
from speechgpt_gen.models.training.loop import Loop, LoopConfig
from speechgpt_gen.models.training.parallel import World, leave, shard

folder, until, accumulate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
world = World.join("cpu")
torch.manual_seed(0)
model = SemanticModel(SemanticConfig(64, 32, 48, 2, 2, 1))
if world.size > 1:
    shard(model, list(model.model.layers), ["hidden"])

def losses(n):
    tokens = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(n))
    logits = model.lm_head(model.hidden(tokens[:, :-1]))
    return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())}

config = LoopConfig(steps=4, learning_rate=1e-2, warmup=1, save_every=2, accumulate=accumulate, ema=0.5)
if world.size > 1:
    atexit.register(os._exit, 3)  # an interpreter that is taken down aborts now and then: see `leave`
Loop(folder, model, config, world=world).run(losses, until=until)
leave()
"""


SPEAK = """
import atexit, os, sys
import torch
from pathlib import Path
from speechgpt_gen.models.perceptual.block_causal import BlockCausalConfig
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from speechgpt_gen.models.training import perceptual_model
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.parallel import World, leave

world = World.join("cpu")
if world.size > 1:
    atexit.register(os._exit, 3)
torch.manual_seed(0)
semantic = SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2)
tokenizer = StreamingSpeechTokenizer(StreamingTokenizerConfig(semantic, 16, 1, 16, 1, heads=2, latent_dim=8)).eval()
tokenizer.requires_grad_(False).codebooks.vectors.normal_()
corpus = Corpus(Path(sys.argv[2]))
codes = torch.randint(0, 50, (sum(u.frames for u in corpus.utterances), 8), dtype=torch.int16)
model = BlockCausalConfig(latent_dim=8, dim=32, depth=2, heads=2)
still = LoopConfig(steps=2, learning_rate=0.0, warmup=1, save_every=2)
recipe = perceptual_model.PerceptualRecipe(model, still, batch_frames=200, evaluate_every=1)
perceptual_model.train(corpus, tokenizer, codes, Path(sys.argv[1]), recipe, world=world)
leave()
"""


CODEC = """
import atexit, os, sys
import torch
from pathlib import Path
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingTokenizerConfig
from speechgpt_gen.models.training import acoustic
from speechgpt_gen.models.training.adversary import AdversaryConfig
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.parallel import World, leave

world = World.join("cpu")
if world.size > 1:
    atexit.register(os._exit, 3)
torch.manual_seed(0)
corpus = Corpus(Path(sys.argv[2]))
units = torch.randint(5, (sum(u.frames for u in corpus.utterances),), dtype=torch.int16)
config = acoustic.AcousticConfig(
    tokenizer=StreamingTokenizerConfig(
        SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2), 16, 1, 16, 1, heads=2, latent_dim=8, n_q=3
    ),
    loop=LoopConfig(steps=4, learning_rate=1e-3, warmup=1, save_every=2),
    continuous_steps=1,
    batch=8,
    crop_frames=16,
    adversary=AdversaryConfig(adversarial=0.02, features=0.04, channels=4),
)
acoustic.train(corpus, Path(sys.argv[1]), config, units, until=int(sys.argv[3]), world=world)
leave()
"""
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}


def run(code: str, folder: Path, *arguments: str, processes: int) -> None:
    script = folder.parent / "train.py"
    script.write_text(code)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, str(script), str(folder), *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def train(folder: Path, until: int, *, processes: int) -> dict[str, torch.Tensor]:
    run(TRAIN, folder, str(until), "1" if processes > 1 else "2", processes=processes)
    if processes > 1:
        weights: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)
        return weights
    average: dict[str, torch.Tensor] = torch.load(folder / "checkpoint.pt", weights_only=True)["average"]
    return average


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batches_and_resume_bit_for_bit(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", 4, processes=1)
    whole = train(tmp_path / "whole", 4, processes=2)
    train(tmp_path / "parts", 2, processes=2)
    parts = train(tmp_path / "parts", 4, processes=2)
    for name, value in alone.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-3, atol=1e-4)
        assert torch.equal(parts[name], whole[name]), name
    assert (tmp_path / "parts" / "checkpoint-1-of-2.pt").is_file()
    module = torch.nn.Linear(2, 1)
    with pytest.raises(ConfigError, match="as many processes"):
        Loop(tmp_path / "parts", module, LoopConfig())


@pytest.mark.slow
def test_two_processes_play_together_what_one_plays(source: Path, tmp_path: Path) -> None:
    """Every process makes the sound, as each holds but a part of the weights, and one writes it."""
    prepare(source, tmp_path / "corpus", progress=False)
    played = []
    for processes in (1, 2):
        folder = tmp_path / f"of{processes}"
        run(SPEAK, folder, str(tmp_path / "corpus"), processes=processes)
        played.append(load_audio(folder / "valid.wav"))
        lines = (folder / "log.jsonl").read_text().splitlines()
        assert all("valid_loss" in json.loads(line) for line in lines)
    assert played[0].any()
    np.testing.assert_allclose(played[0], played[1], atol=2e-3)


def states(folder: Path, *ranks: int) -> list[dict[str, Any]]:
    return [torch.load(folder / f"checkpoint-{rank}-of-2.pt", weights_only=True) for rank in ranks]


@pytest.mark.slow
def test_two_processes_train_stages_alike(source: Path, tmp_path: Path) -> None:
    """By the command line: each process has all weights, but of the semantic model, and batches of its own."""
    prepare(source, tmp_path / "run" / "corpus", progress=False)
    (tmp_path / "tiny.toml").write_text(f"restate = true\n{RECIPE}{RECOGNIZER}")
    for stage in ("tokenizer", "decoder", "semantic", "recognizer"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
        command += ["--", "speechgpt_gen.agent.cli", "train", stage]  # without "--" torchrun takes --run for its own
        command += ["--run", str(tmp_path / "run"), "--config", str(tmp_path / "tiny.toml")]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("units", "acoustic", "decoder", "recognizer"):
        first, second = states(tmp_path / "run" / stage, 0, 1)
        for name, value in first["module"].items():
            assert torch.equal(value, second["module"][name]), f"{stage}: {name}"
        assert (tmp_path / "run" / stage / "weights.pt").is_file()
    assert (tmp_path / "run" / "spoken.npz").is_file()
    assert (tmp_path / "run" / "semantic" / "weights.pt").is_file()


@pytest.mark.slow
def test_codebooks_and_discriminators_of_two_processes_resume_bit_for_bit(source: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    prepare(source, corpus, progress=False)
    for folder, until in (("whole", 4), ("parts", 2), ("parts", 4)):
        run(CODEC, tmp_path / folder, str(corpus), str(until), processes=2)
    (whole, other), (parts,) = states(tmp_path / "whole", 0, 1), states(tmp_path / "parts", 0)
    for part in ("module", "beside"):
        for name, value in whole[part].items():
            assert torch.equal(value, other[part][name]), f"{name} of the other process"
            assert torch.equal(value, parts[part][name]), f"{name} of who was stopped"
    assert "0.counts" in whole["beside"]
    assert len(whole["beside"]) > 50, "discriminators too"
    run(CODEC, tmp_path / "alone", str(corpus), "4", processes=1)
    alone = torch.load(tmp_path / "alone" / "checkpoint.pt", weights_only=True)["beside"]["0.counts"]
    assert (whole["beside"]["0.counts"] - alone).abs().max() > 1e-3, "what falls on a code is counted in both"
