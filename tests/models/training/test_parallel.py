"""Two processes train as one does that averages two batches, and go on where they stopped."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training.loop import Loop, LoopConfig

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


def train(folder: Path, until: int, *, processes: int) -> dict[str, torch.Tensor]:
    script = folder.parent / "train.py"
    script.write_text(TRAIN)
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    arguments = [str(script), str(folder), str(until), "1" if processes > 1 else "2"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
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
