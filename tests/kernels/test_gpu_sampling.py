"""The sampling kernel against its torch twin and the plain `Sampler`: GPU where there is one, else the interpreter."""

from __future__ import annotations

import pytest
import torch

from speechgpt_gen.kernels.noise import seed_keys
from speechgpt_gen.kernels.sampling import TokenClasses, sample
from speechgpt_gen.kernels.selection import triton_refusal, using
from speechgpt_gen.models.semantic.sampling import Sampler, SamplingOptions

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
SIZE = 3000

pytestmark = pytest.mark.skipif(triton_refusal(DEVICE.type) is not None, reason=str(triton_refusal(DEVICE.type)))


def classes() -> list[torch.Tensor]:
    return [torch.arange(100, 1125), torch.tensor([7]), torch.arange(2600), torch.arange(1, SIZE, 7)]


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(temperature=0.7),
        SamplingOptions(temperature=1.3, top_k=0, top_p=1.0),
        SamplingOptions(temperature=1.0, top_k=5, top_p=0.5),
        SamplingOptions(temperature=0.0),
        SamplingOptions(temperature=0.9, top_k=1),
        SamplingOptions(temperature=1.0, top_p=0.01),
    ],
    ids=str,
)
def test_draws_what_the_sampler_draws(options: SamplingOptions, backend: str) -> None:
    rows = 8
    kinds = torch.arange(rows) % 4
    seeds = [3**40 + row for row in range(rows)]
    positions = torch.randint(0, 2**33, (rows,))
    logits = 3 * torch.randn(rows, SIZE)
    fields = torch.zeros(rows, 3, dtype=torch.int64)  # strided, as the engine has them
    fields[:, 0], fields[:, 1], fields[:, 2] = kinds, positions, options.top_k
    fields = fields.to(DEVICE)
    with using(backend):
        drawn = sample(
            logits.to(DEVICE),
            TokenClasses.of(classes(), SIZE, DEVICE),
            fields[:, 0],
            keys=torch.tensor([seed_keys(seed) for seed in seeds], device=DEVICE),
            positions=fields[:, 1],
            temperature=torch.full((rows,), options.temperature, device=DEVICE),
            top_k=fields[:, 2],
            top_p=torch.full((rows,), options.top_p, device=DEVICE),
            candidates=SIZE if options.top_k == 0 and backend == "torch" else 128,
        )
    if options.top_k == 0:
        options = SamplingOptions(temperature=options.temperature, top_k=128 if backend == "triton" else 0, top_p=1.0)
    allowed = [classes()[kind] for kind in kinds.tolist()]
    expected = [
        Sampler(options, seeds[row], SIZE).draw(
            logits[row], int(positions[row]), allowed[row], temperature=options.temperature
        )
        for row in range(rows)
    ]
    assert drawn.tolist() == expected


def test_ties_penalties_and_rows_of_nan() -> None:
    logits = torch.zeros(3, 600)
    logits[0, 40:60] = 2.0  # twenty alike, of which five may be drawn
    logits[1, 10], logits[1, 11] = 5.0, 4.0  # 10 was seen and is worth 2.5
    logits[2] = torch.nan
    seen = torch.zeros(4, 600, dtype=torch.bool)
    seen[2, 10] = True
    with using("triton"):
        drawn = sample(
            logits.to(DEVICE),
            TokenClasses.of([torch.arange(600)], 600, DEVICE),
            torch.zeros(3, dtype=torch.int64, device=DEVICE),
            keys=torch.tensor([[1, 2]] * 3, device=DEVICE),
            positions=torch.arange(3, device=DEVICE),
            temperature=torch.tensor([1.0, 0.0, 1.0], device=DEVICE),
            top_k=torch.tensor([5, 0, 5], device=DEVICE),
            top_p=torch.ones(3, device=DEVICE),
            seen=seen.to(DEVICE),
            seen_rows=torch.tensor([0, 2, 3], device=DEVICE),
            penalty=torch.full((3,), 2.0, device=DEVICE),
        )
    assert 40 <= drawn[0] < 45
    assert drawn[1] == 11
    assert 0 <= drawn[2] < 600
