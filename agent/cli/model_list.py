"""What `speechgpt-gen models` shows: read from the folders alone, no weights are loaded."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from rich.table import Table

from ...models.errors import CheckpointError, ModelNotFoundError

PARTS = ("tokenizer", "semantic", "perceptual")


def describe_models(folders: list[Path]) -> list[dict[str, Any]]:
    """The built-in models and those of `folders`: name, folder, parameters of each part, bytes, voices, licence.

    Raises:
        ModelNotFoundError: a folder is no model.
        CheckpointError: its weights cannot be read.
    """
    from ...models.bundle import builtin_models

    found = [_describe(name, folder) for name, folder in builtin_models().items()]
    found += [_describe(str(folder), folder) for folder in folders]
    tiny = {"name": "tiny", "folder": None, "description": "random weights, made in memory, for tests"}
    return [*found, {**tiny, "parameters": {}, "bytes": 0, "voices": [], "license": ""}]


def _describe(name: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError:
        raise ModelNotFoundError(f"{str(folder)!r} is no model folder: it has no config.json") from None
    except ValueError:
        raise ModelNotFoundError(f"{folder / 'config.json'} is not JSON") from None
    if not isinstance(config, dict) or config.get("format") != "speechgpt-gen":
        raise ModelNotFoundError(f"{folder / 'config.json'} is no model of this program: its format is another one")
    return {
        "name": name,
        "folder": str(folder),
        "description": config.get("description", ""),
        "parameters": {part: parameters(folder / f"{part}.safetensors") for part in PARTS},
        "bytes": sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        "voices": list(config.get("voices", [])),
        "license": config.get("license", ""),
    }


def parameters(path: Path) -> int:
    """Numbers stored in a safetensors file, by its header (8 bytes of length, then JSON).

    Raises:
        CheckpointError: missing, or not safetensors.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100_000_000)))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except OSError:
        raise CheckpointError(f"there is no {path}: the model is not complete") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path} is not a safetensors file") from None


def models_table(found: list[dict[str, Any]]) -> Table:
    """The models as a table."""
    table = Table("model", "parameters", "size", "voices", "licence", "what it is")
    for model in found:
        count = sum(model["parameters"].values())
        table.add_row(
            model["name"],
            f"{count / 1e6:.1f} M" if count else "-",
            f"{model['bytes'] / 1e6:.1f} MB" if model["bytes"] else "-",
            ", ".join(model["voices"]) or "-",
            model["license"] or "-",
            model["description"],
        )
    return table
