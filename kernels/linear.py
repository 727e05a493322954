"""Lighter linear layers for CPU inference: a model is built in fp32, loaded, then transformed in place.

int8: weights per output channel, activations quantised on the fly (fbgemm). A decode step reads a quarter of the bytes,
which is what it waits for. The operator has one scale for all rows of a call, so rows are brought to the same size
first: else the loudest takes the others' precision (nano's text diverged six times as far from float32). Their zero
point stays shared, so results may differ in the last digits with how rows are batched.
bf16: weights and products in bfloat16, the input's dtype in and out: rows stay independent of each other, and many rows
are quicker than in fp32 on CPUs with AMX or AVX512-BF16 (one row is not).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """Inference-only replacement of an `nn.Linear` on the CPU. Its weights are not in the state dict: load before."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float().cpu()
        scales = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
        self._bias = None if linear.bias is None else linear.bias.detach().float().cpu()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deprecated half of torch's quantisation; these two operators stay
            zeros = torch.zeros(len(scales), dtype=torch.int64)
            quantised = torch.quantize_per_channel(weight, scales, zeros, axis=0, dtype=torch.qint8)
            self._packed = _prepack(quantised)
        # Without VNNI fbgemm adds pairs of products in 16 bits, where 8-bit activations would overflow.
        self._reduce_range = not torch.cpu._is_vnni_supported()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.float().reshape(-1, self.in_features)
        if len(rows) == 1:
            made = self._product(rows) if self._bias is None else self._product(rows) + self._bias
        else:
            size = rows.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            made = self._product(rows / size)
            made = made * size if self._bias is None else torch.addcmul(self._bias, made, size)
        return made.view(*x.shape[:-1], self.out_features)

    def _product(self, rows: Tensor) -> Tensor:
        made: Tensor = torch.ops.quantized.linear_dynamic(rows, self._packed, reduce_range=self._reduce_range)
        return made

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class BFloat16Linear(nn.Module):
    """An `nn.Linear` that multiplies in bfloat16 and keeps the dtype of its input."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().bfloat16(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias).to(x.dtype)


def quantize_linears_(
    module: nn.Module, dtype: Literal["int8", "bf16"] = "int8", skip: Collection[str] = ()
) -> nn.Module:
    """Replace the `nn.Linear`s inside `module`, in place, and return it.

    skip: submodules to leave as they are, by dotted path ("model.layers.0.mlp") or by last name ("lm_head").
    A weight that is tied to an embedding is copied, the embedding stays as it was.
    """
    make = Int8Linear if dtype == "int8" else BFloat16Linear
    replace_linears_(module, make, skip)
    return module


def replace_linears_(
    module: nn.Module, make: Callable[[nn.Linear], nn.Module], skip: Collection[str] = (), path: str = ""
) -> None:
    """Put `make(linear)` in the place of every `nn.Linear` inside `module`; skip as for `quantize_linears_`."""
    for name, child in module.named_children():
        child_path = f"{path}{name}"
        if name in skip or child_path in skip:
            continue
        if type(child) is nn.Linear:  # subclasses have a reason to be different
            setattr(module, name, make(child))
        else:
            replace_linears_(child, make, skip, f"{child_path}.")


def _prepack(quantised: Tensor) -> Any:
    """Pack with fbgemm where there is one (x86), else with what this CPU has; the packed weight remembers which."""
    engines = torch.backends.quantized
    before = engines.engine
    try:
        if "fbgemm" in engines.supported_engines:
            engines.engine = "fbgemm"
        return torch.ops.quantized.linear_prepack(quantised, None)
    finally:
        engines.engine = before
