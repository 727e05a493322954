"""Muon: steps of equal size in every direction, as torch makes them."""

from pathlib import Path

import torch

from speechgpt_gen.models.training.loop import Loop, LoopConfig
from speechgpt_gen.models.training.muon import Muon


def test_muon_moves_the_matrices_of_repeated_layers_by_steps_of_equal_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.ModuleDict(
        {"table": torch.nn.Embedding(64, 8), "layers": torch.nn.ModuleList([torch.nn.Linear(8, 8)])}
    )
    layer = module["layers"][0]  # type: ignore[index]
    before = layer.weight.detach().clone()
    loop = Loop(tmp_path, module, LoopConfig(steps=1, warmup=1, decay=0.0, weight_decay=0.0, optimizer="muon"))
    loop.run(lambda step: {"loss": layer(module["table"](torch.arange(64))).square().sum()})
    moved = torch.linalg.svdvals(before - layer.weight.detach())
    # Newton-Schulz brings the singular values of any gradient to about 1; the scale is the one that matches AdamW.
    assert moved.min() > 0.5 * 1e-3 * 0.2 * 8**0.5
    assert moved.max() < 1.5 * 1e-3 * 0.2 * 8**0.5


def test_muon_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (16, 8), (8, 8), (8, 24))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    plain = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    fast = Muon(ours, 1e-2, weight_decay=0.1)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        plain.step()
        fast.step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        moved = (b - start).norm()
        assert (a - b).norm() < 0.03 * moved  # torch's iterates in bf16
