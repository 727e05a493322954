"""Training by several processes (torchrun): FSDP2 keeps a shard of every weight, gradient and moment in each, or, of a
module that is small, each keeps all and their gradients are averaged.

A module is sharded in place and knows nothing of it. Checkpoints are one file a process, read with `weights_only`, and
resume bit for bit on as many processes; the whole weights are gathered beside them for whoever goes on without.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> World:
        """Meet the other processes that torchrun started; alone when it did not."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks."""
        return self.rank == 0

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each value over all processes."""
        if self.size == 1:
            return values
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor, of one dtype, the mean of all processes' in place; shards are left alone."""
        held = [] if self.size == 1 else [each for each in tensors if not isinstance(each, DTensor)]
        if held:
            joined = torch.cat([each.flatten() for each in held])
            dist.all_reduce(joined)
            means = torch.split(joined / self.size, [each.numel() for each in held])
            for each, mean in zip(held, means, strict=True):
                each.copy_(mean.view_as(each))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Make a tensor the sum of all processes' in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def same_(self, tensor: Tensor) -> Tensor:
        """Make a tensor that of the first process in place."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()
"""One process for itself."""


def leave() -> None:
    """End this process, with status 0, if it is one of several; otherwise do nothing. What is to be kept is written.

    The interpreter is not taken down: gloo's threads may still hold the last reference to a tensor, need the
    interpreter's lock to drop it, and are ended by force when they ask a closing interpreter for it. A C++ destructor
    can't be left that way, so the process would abort.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def shard(module: nn.Module, blocks: Sequence[nn.Module], methods: Sequence[str] = ()) -> None:
    """Split `module` over all processes, gathered block by block as it runs.

    methods: names of what is called beside `forward`. Call it before the optimizer is made, and before compiling.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in blocks:
        fully_shard(block)
    fully_shard(module)
    for name in methods:
        register_fsdp_forward_method(module, name)


def local(value: Any) -> Any:
    """What this process holds of a state: its shard of every distributed tensor, in dictionaries and lists too."""
    if isinstance(value, DTensor):
        return value.to_local()
    if isinstance(value, dict):
        return {key: local(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(local(each) for each in value)
    return value


def spread(value: Any, like: Tensor) -> Any:
    """The inverse of `local` for one tensor that has the shape of `like`: distributed as that is."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.ndim == like.ndim > 0:
        shape, stride = like.size(), like.stride()
        return DTensor.from_local(value, like.device_mesh, like.placements, shape=shape, stride=stride)
    return value


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The full tensors of a state, on the CPU; every process must ask."""
    return {name: (v.full_tensor() if isinstance(v, DTensor) else v).detach().cpu() for name, v in state.items()}
