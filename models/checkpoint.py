"""Weights from files: only containers that cannot run code, and only keys and shapes that fit exactly."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import CheckpointError, ModelNotFoundError

_NAMED_AT_MOST: Final = 3  # keys of each kind that an error names; the counts say the rest


def load_state(path: str | PathLike[str], *, wrapper: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU: a `.safetensors` file, else a file written by `torch.save`.

    wrapper: the key under which a trainer's checkpoint keeps the weights beside its optimizer's state ("generator",
    "model"); a file that is a flat state dict is read as such even so.

    Files of `torch.save` are read with `weights_only=True` and nothing else: one that needs code to load is refused.
    Raises ModelNotFoundError when there is no such file, CheckpointError when it cannot be read or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"no checkpoint at {path}: check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is no readable safetensors file ({_first_line(error)})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a broken file leads it to
        raise CheckpointError(
            f"{path} cannot be read as plain weights ({_first_line(error)}): a truncated file, or one that would run "
            "code; save it again as safetensors or as a dictionary of tensors"
        ) from error
    if wrapper is not None and isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no dictionary of tensors but {type(content).__name__}: wrong file?")
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(
            f"{path} is no flat dictionary of tensors ({_named(strange)} not a tensor): wrong file, or a trainer's "
            "checkpoint of another model"
        )
    return {str(key): value for key, value in content.items()}


def load_strict(module: nn.Module, state: Mapping[str, Tensor], source: str | PathLike[str]) -> None:
    """Load `state` into `module` where keys and shapes are exactly the module's; dtypes become the module's.

    A module on the meta device takes the tensors over as they are, without a copy. `source` is what the error calls the
    checkpoint. Raises CheckpointError, in one line, naming the first missing, extra and mis-shaped keys; the module is
    then untouched.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)} and should be {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or extra or shapes:
        kinds = {"missing": missing, "extra": extra, "mis-shaped": shapes}
        found = "; ".join(f"{len(keys)} {kind} ({_named(keys)})" for kind, keys in kinds.items() if keys)
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: {found}. "
            "Check that configuration and checkpoint belong together"
        )
    on_meta = any(value.is_meta for value in own.values())
    module.load_state_dict({key: state[key].to(value.dtype) for key, value in own.items()}, assign=on_meta)


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:_NAMED_AT_MOST]) + (", ..." if len(keys) > _NAMED_AT_MOST else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
