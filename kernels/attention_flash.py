"""Attention over a cache by the flash-attn package, where somebody installed it: version 2, 3 or 4.

New keys are rotated and appended by our own kernel, which knows idle rows; the package then only looks at the cache. It
wants 16-bit queries and caches. Version 4 (CuTe DSL, compiled at first use) has no call for caches: a slot is handed to
it as one large page.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor

from .attention_call import Call
from .rotary import rotate

_HOMES: Final = (
    ("flash_attn_interface", "flash_attn_with_kvcache"),  # 3
    ("flash_attn", "flash_attn_with_kvcache"),  # 2
    ("flash_attn.cute", "flash_attn_varlen_func"),  # 4
)


_PAGED_ON: Final = (9, 10, 11)
"""Major compute capabilities on which version 4 takes a page table (flash_attn/cute/interface.py, 4.0.0b36)."""


@cache
def function() -> Callable[..., Any]:
    """What the installed version offers. Raises ImportError when there is none."""
    for module, name in _HOMES:
        try:
            found: Callable[..., Any] = getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
        return found
    raise ImportError("no flash-attn 2, 3 or 4 is installed")


def capability_refusal(capability: tuple[int, int]) -> str | None:
    """Why the installed version can't look at a cache on a GPU of this compute capability; None when it can.

    Raises ImportError when none is installed.
    """
    if _paged(function()) and capability[0] not in _PAGED_ON:
        return f"flash-attn 4 reads caches on compute capability 9 to 11, not on {capability[0]}.{capability[1]}"
    return None


def refusal(call: Call) -> str | None:
    """Why flash-attn can't compute this, in one line; None when it can."""
    if call.q.dtype not in (torch.float16, torch.bfloat16) or call.k_cache.dtype != call.q.dtype:
        return f"flash-attn wants queries and caches of one 16-bit type, not {call.q.dtype} and {call.k_cache.dtype}"
    return None


def run(call: Call) -> Tensor:
    """Compute the call."""
    from .gpu.append import append  # not every machine has triton

    lengths = call.row_lengths()
    q = call.q
    if call.k is not None:
        append(call, lengths)
        if call.rotary is not None:
            steps = torch.arange(q.shape[1], device=q.device)
            turning = steps if call.causal or call.window != (-1, -1) else torch.zeros_like(steps)
            q = rotate(q, call.rotary, lengths[:, None] + turning, call.interleaved)
    total = (lengths + call.new).int()
    slots = torch.arange(len(q), device=q.device) if call.slots is None else call.slots
    total, slots = torch.where(slots < 0, 0, total), slots.clamp(min=0).int()
    attend = function()
    if _paged(attend):
        out = attend(
            q,
            call.k_cache,
            call.v_cache,
            page_table=slots[:, None],
            seqused_k=total,
            softmax_scale=call.scale,
            causal=call.causal,
            window_size=tuple(None if side < 0 else side for side in call.window),
        )
    else:
        out = attend(
            q,
            call.k_cache,
            call.v_cache,
            cache_seqlens=total,
            cache_batch_idx=slots,
            softmax_scale=call.scale,
            causal=call.causal,
            window_size=call.window,
        )
    attended: Tensor = out[0] if isinstance(out, tuple) else out
    return attended.masked_fill((total == 0)[:, None, None, None], 0)


def _paged(function: Callable[..., Any]) -> bool:
    """Whether it is version 4's."""
    return function.__name__ == "flash_attn_varlen_func"
