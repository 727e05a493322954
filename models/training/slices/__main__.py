"""One slice: `python -m speechgpt_gen.models.training.slices STAGE MINUTES OUT [RESUME ...]`, for gpu_slice.sh."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch._dynamo

from ...errors import ConfigError, SpeechGPTGenError
from ..corpus import Corpus
from ..prepare import prepare
from ..recipe import load_recipe
from .machine import Machine
from .pack import unpacked
from .stages import STAGES, Slice


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gpu_slice.sh", description="Train one stage for a few minutes.")
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("minutes", type=float)
    parser.add_argument("out", type=Path)
    parser.add_argument("resume", type=Path, nargs="*", help="OUT of earlier slices, of this stage and of others")
    parser.add_argument("--packs", type=Path, required=True, help="folder that holds pack-00, pack-01, ...")
    parser.add_argument("--recipe", type=Path, help="default: the one in pack-00")
    parser.add_argument("--shipped", default="nano", help="bundle to go on from where there are no pieces")
    given = parser.parse_args(arguments)
    try:
        run_slice(given)
    except SpeechGPTGenError as error:
        sys.exit(f"error: {error}")


def run_slice(given: argparse.Namespace) -> None:
    """Decode the packs, run the stage and leave its results in OUT."""
    machine = Machine.here(given.minutes)
    missing = [str(folder) for folder in given.resume if not folder.is_dir()]
    if missing:
        raise ConfigError(f"no folder {', '.join(missing)} to resume from")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        source = work / "packs"
        corpora = unpacked(given.packs, source)
        recipe = load_recipe(given.recipe or source / "recipe.toml")
        if (source / "teacher").is_dir():
            recipe = replace(recipe, units=replace(recipe.units, teacher=str(source / "teacher")))
        _decode(corpora, work / "corpus")  # in processes, so before the device is touched
        print(f"corpus decoded after {machine.spent:.1f} s", flush=True)
        rate = machine.gemm_rate()
        print(f"{machine.device}: matrix products at {rate / 1e12:.2f} TFLOP/s", flush=True)
        earlier = [source / "earlier", *given.resume]
        run = Slice(machine, recipe, Corpus(work / "corpus"), work, given.out, earlier, given.shipped)
        figures = STAGES[given.stage](run)
        log = [json.loads(line) for line in _logs(work)]
    figures |= _speed(figures, log, rate)
    figures["seconds"] = machine.spent
    (given.out / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _thinned(log)))
    (given.out / "figures.json").write_text(json.dumps({"stage": given.stage, **figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1), flush=True)


def _decode(sources: list[Path], cache: Path) -> None:
    with ProcessPoolExecutor() as pool:
        prepare(sources, cache, pool=pool, progress=False)


def _logs(work: Path) -> list[str]:
    """Lines of every part's log, each with the part's name."""
    lines = []
    for path in sorted(work.glob("*/log.jsonl"), key=lambda p: p.stat().st_mtime):
        part = path.parent.name
        lines += [json.dumps({"part": part, **json.loads(line)}) for line in path.read_text().splitlines()]
    return lines


def _thinned(log: list[dict[str, float | str]], most: int = 20_000) -> list[dict[str, float | str]]:
    """Every n-th line and all lines with held-out figures."""
    every = -(-len(log) // most)
    return [line for n, line in enumerate(log) if n % every == 0 or any(k.startswith("valid_") for k in line)]


def _speed(figures: dict[str, float], log: list[dict[str, float | str]], rate: float) -> dict[str, float]:
    """Items (tokens or frames) a second of the last part, and its share of the rate of matrix products: a step costs
    about six operations a parameter and item."""
    if not log or "items_per_step" not in figures:
        return {}
    seconds = sorted(float(line["seconds"]) for line in log if line["part"] == log[-1]["part"])
    per_second = figures["items_per_step"] / seconds[len(seconds) // 2]
    return {
        "items_per_second": per_second,
        "gemm_share": 6 * figures.get("parameters", 0.0) * per_second / rate,
        "gemm_tflops": rate / 1e12,
    }


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")  # batches are built by processes that share the corpus
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    main()
