"""Fused pieces against their torch twins: on the GPU where there is one, else in Triton's interpreter, in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from speechgpt_gen.kernels.fused import gate_residual, norm_modulate, rms_norm, swiglu
from speechgpt_gen.kernels.selection import fused, triton_refusal, using
from speechgpt_gen.kernels.weight_only import WeightOnlyLinear, linear, quantise_rows

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = [torch.float32, torch.bfloat16] if GPU else [torch.float32]

pytestmark = [
    pytest.mark.skipif(triton_refusal(DEVICE.type) is not None, reason=str(triton_refusal(DEVICE.type))),
    pytest.mark.parametrize("dtype", DTYPES, ids=str),
]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype).to(DEVICE)


def both(function, *args, **options):  # type: ignore[no-untyped-def]
    """What the kernel gives, and what plain torch gives in fp32 from the same numbers."""
    with using("triton"):
        assert fused(DEVICE)
        ours = function(*args, **options)
    widen = lambda x: x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x  # noqa: E731
    with using("torch"):
        plain = function(*map(widen, args), **{name: widen(value) for name, value in options.items()})
    return ours, plain


def close(ours: Tensor, plain: Tensor) -> None:
    tolerance = {"atol": 2e-5, "rtol": 1e-5} if ours.dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(ours.float(), plain.float(), **tolerance)


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 96), (2, 3, 64), (3, 1, 200)])
def test_rms_norm(shape: tuple[int, int, int], branch: bool, dtype: torch.dtype) -> None:
    x, more = draw(*shape, dtype=dtype), draw(*shape, dtype=dtype) if branch else None
    ours, plain = both(rms_norm, x, draw(shape[-1], dtype=dtype), 1e-5, more)
    for one, other in zip(ours, plain, strict=True):
        close(one, other)


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_norm_modulate(rows: int, branch: bool, dtype: torch.dtype) -> None:
    x = draw(2, 5, 72, dtype=dtype)
    modulation = draw(rows, 3, 72, dtype=dtype)
    more = (draw(2, 5, 72, dtype=dtype), modulation[:, 2]) if branch else ()
    ours, plain = both(norm_modulate, x, modulation[:, 0], modulation[:, 1], *more)
    for one, other in zip(ours, plain, strict=True):
        close(one, other)


def test_norm_of_what_is_far_from_zero(dtype: torch.dtype) -> None:
    x = (draw(1, 2, 100) + 50).to(dtype)
    ours, plain = both(norm_modulate, x, draw(1, 100, dtype=dtype), draw(1, 100, dtype=dtype))
    torch.testing.assert_close(ours[1].float(), plain[1].float(), atol=1e-2, rtol=2e-2)


def test_gate_residual(dtype: torch.dtype) -> None:
    ours, plain = both(
        gate_residual, draw(2, 4, 40, dtype=dtype), draw(2, 4, 40, dtype=dtype), draw(2, 40, dtype=dtype)
    )
    close(ours, plain)
    ours, plain = both(gate_residual, draw(2, 4, 40, dtype=dtype), draw(2, 4, 40, dtype=dtype))
    close(ours, plain)


def test_swiglu(dtype: torch.dtype) -> None:
    close(*both(swiglu, draw(3, 2 * 1100, dtype=dtype)))
    close(*both(swiglu, draw(2, 2, 16, dtype=dtype)))


@pytest.mark.parametrize("weights", ["plain", "int8", "fp8"])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 48, 256), (5, 70, 1024), (17, 32, 128)])
def test_linear(rows: int, outputs: int, inputs: int, weights: str, dtype: torch.dtype) -> None:
    x, weight = draw(rows, inputs, dtype=dtype), draw(outputs, inputs, dtype=dtype) / inputs**0.5
    scales = None
    if weights != "plain":
        weight, scales = quantise_rows(weight, weights)  # type: ignore[arg-type]
    ours, plain = both(linear, x, weight, scales, residual=draw(rows, outputs, dtype=dtype))
    close(ours, plain)
    if weights != "plain":
        assert scales is not None
        exact = x.float() @ (weight.float() * scales[:, None]).T
        close(both(linear, x, weight, scales)[0], exact)


@pytest.mark.parametrize("weights", ["plain", "int8"])
def test_linear_with_norm_and_gate(weights: str, dtype: torch.dtype) -> None:
    x, weight, norm = draw(2, 3, 128, dtype=dtype), draw(2 * 40, 128, dtype=dtype) / 11, draw(128, dtype=dtype)
    scales = None
    if weights == "int8":
        weight, scales = quantise_rows(weight, "int8")
    close(*both(linear, x, weight, scales, norm=norm, gated=True))
    close(*both(linear, x, weight, scales, norm=norm))


@pytest.mark.skipif(not GPU, reason="the interpreter multiplies as numpy does, not as the kernel")
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    x, weight = draw(16, 1024, dtype=dtype), draw(64, 1024, dtype=dtype)
    with using("triton"):
        together = linear(x, weight)
        assert all(torch.equal(linear(x[i : i + 1], weight)[0], together[i]) for i in range(0, 16, 5))


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_rounded_layer_is_near_the_layer(weights: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(256, 40).to(DEVICE, dtype)
    light = WeightOnlyLinear(copy.deepcopy(layer), weights)  # type: ignore[arg-type]
    x = draw(3, 256, dtype=dtype)
    with using("triton"):
        error = (light(x) - layer(x)).float().norm() / layer(x).float().norm()
    assert error < (0.05 if weights == "fp8" else 0.02)
