"""Compile what the product launches, for GPUs that are not here: run as a program, without Triton's interpreter.

    python tests/kernels/compile_kernels.py 80 90 100 [--resources FOLDER] [--only NAME]

The launching code runs on tensors without memory ("meta") at the 8b engine's sizes; each launch is compiled to a cubin
instead of started. Prints one JSON line per kernel and architecture. --resources adds registers and spills, for which
it needs cuobjdump (Triton's package has one).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget

from speechgpt_gen.kernels.attention_call import Call
from speechgpt_gen.kernels.gpu import attention, launch, linear, norm, sampling

META = torch.device("meta")
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


class Driver:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch  # kernels are cached by device

    def get_current_stream(self, _device: int) -> int:
        return 0


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def attend(
    batch: int,
    new: int,
    heads: int,
    kv_heads: int,
    dim: int,
    *,
    dtype: torch.dtype = BF16,
    cache: torch.dtype = BF16,
    **options: Any,
) -> Callable[[], object]:
    """One call with joined q, k, v, rotary tables, slots and a cache of 4096."""

    def run() -> object:
        qkv = empty(batch, new, heads + 2 * kv_heads, dim, dtype=dtype)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=2)
        caches = empty(32, 4096, kv_heads, dim, dtype=cache), empty(32, 4096, kv_heads, dim, dtype=cache)
        scales = empty(kv_heads, dtype=torch.float32) if cache == FP8 else None
        rotary = empty(4096, dim // 2, dtype=torch.float32), empty(4096, dim // 2, dtype=torch.float32)
        arguments = {
            "rotary": rotary,
            "interleaved": False,
            "lengths": empty(batch, dtype=torch.int32),
            "slots": empty(batch, dtype=torch.int32),
            "scale": dim**-0.5,
            "causal": True,
            "window": (-1, 0),
            "k_descale": scales,
            "v_descale": scales,
        }
        return attention.run(Call(q, *caches, k, v, **{**arguments, **options}))

    return run


def multiply(rows: int, outputs: int, inputs: int, weights: torch.dtype, **options: Any) -> Callable[[], object]:
    """One linear of a decode step."""

    def run() -> object:
        gated = options.get("gated", False)
        weight = empty(outputs * (1 + gated), inputs, dtype=weights)
        scales = empty(len(weight), dtype=torch.float32) if weights != BF16 else None
        arguments = {"norm": None, "eps": 1e-5, "gated": gated, "residual": None, "counters": None}
        if options.get("norm"):
            arguments["norm"] = empty(inputs)
        if options.get("residual"):
            arguments["residual"] = empty(rows, outputs)
        return linear.run(empty(rows, inputs), weight, scales, **arguments)

    return run


def modulate() -> object:
    x, modulation = empty(2, 25, 1536), empty(1, 3, 1536)
    return norm.norm(
        x, branch=x, gate=modulation[:, 0], weight=modulation[:, 1], shift=modulation[:, 2], eps=1e-5, rms=False
    )


def draw() -> object:
    """32 rows of the semantic model's vocabulary, fields strided as the engine has them."""
    rows, size = 32, 33300
    fields, chances = empty(rows, 9, dtype=torch.int64), empty(rows, 4, dtype=torch.float32)
    return sampling.run(
        empty(rows, size, dtype=torch.float32),
        empty(8, 32000, dtype=torch.int32),
        empty(8, dtype=torch.int32),
        fields[:, 3],
        keys=fields[:, 6:8],
        positions=fields[:, 5],
        temperature=chances[:, 0],
        top_k=fields[:, 8],
        top_p=chances[:, 2],
        candidates=128,
        seen=empty(rows + 1, size, dtype=torch.bool),
        seen_rows=empty(rows, dtype=torch.int64),
        penalty=chances[:, 3],
    )


LAUNCHES: dict[str, tuple[int, Callable[[], object]]] = {
    # name: (oldest compute capability, what launches it)
    "attention, decode": (80, attend(1, 1, 32, 32, 128)),
    "attention, decode, GQA": (80, attend(8, 1, 32, 8, 128)),
    "attention, decode, fp8": (89, attend(32, 1, 32, 32, 128, cache=FP8)),
    "attention, decode, fp32": (80, attend(1, 1, 8, 2, 64, dtype=torch.float32, cache=torch.float32)),
    "attention, prefill": (80, attend(1, 256, 32, 32, 128)),
    "attention, prefill, fp8": (89, attend(1, 64, 32, 32, 128, cache=FP8)),
    "attention, prefill, fp32": (80, attend(1, 64, 8, 2, 64, dtype=torch.float32, cache=torch.float32)),
    "attention, flow block": (80, attend(16, 25, 24, 24, 64, causal=False, window=(-1, -1), interleaved=True)),
    "linear, qkv, bf16": (80, multiply(1, 12288, 4096, BF16, norm=True)),
    "linear, qkv, fp8": (89, multiply(1, 12288, 4096, FP8, norm=True)),
    "linear, gate and up, fp8": (89, multiply(1, 11008, 4096, FP8, norm=True, gated=True)),
    "linear, gate and up, int8": (80, multiply(1, 11008, 4096, torch.int8, norm=True, gated=True)),
    "linear, down, bf16": (80, multiply(1, 4096, 11008, BF16, residual=True)),
    "linear, down, fp8": (89, multiply(1, 4096, 11008, FP8, residual=True)),
    "linear, down, int8, 32 rows": (80, multiply(32, 4096, 11008, torch.int8, residual=True)),
    "norm, RMS": (
        80,
        lambda: norm.norm(
            empty(1, 1, 4096), branch=empty(1, 1, 4096), gate=None, weight=empty(4096), shift=None, eps=1e-5, rms=True
        ),
    ),
    "norm, modulate": (80, modulate),
    "sampling": (80, draw),
    "SwiGLU": (80, lambda: norm.swiglu(empty(1, 2 * 11008))),
}


def compiled(run: Callable[[], object], capability: int) -> list[Any]:
    """Each kernel that `run` launches, compiled."""
    kernels: list[Any] = []

    def instead(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
        assert 0 < len(grid) <= 3
        assert all(size > 0 for size in grid)
        assert all(size < 2**16 for size in grid[1:]), f"grid {grid} is larger than CUDA allows"
        kernels.append(kernel.run(*args, grid=grid, warmup=True, **meta))

    triton.runtime.driver.set_active(Driver(capability))
    with mock.patch.object(launch, "start", instead):
        run()
    return kernels


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers and stack bytes (spills) of each thread."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin", dir=folder) as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capabilities", nargs="+", type=int)
    parser.add_argument("--resources", type=Path)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    for name, (oldest, run) in LAUNCHES.items():
        for capability in arguments.capabilities:
            if capability < oldest or arguments.only not in name:
                continue
            for kernel in compiled(run, capability):
                cubin = kernel.asm["cubin"]
                line = {
                    "launch": name,
                    "kernel": kernel.metadata.name,
                    "arch": capability,
                    "cubin": len(cubin),
                    "shared": kernel.metadata.shared,
                    "warps": kernel.metadata.num_warps,
                }
                if arguments.resources:
                    line |= resources(cubin, arguments.resources)
                    stem = re.sub(r"\W+", "_", f"{name}_{kernel.metadata.name}_{capability}")
                    for kind in ("ptx", "ttgir"):
                        (arguments.resources / f"{stem}.{kind}").write_text(kernel.asm[kind])
                    (arguments.resources / f"{stem}.cubin").write_bytes(cubin)
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
