"""Every measurement, each in a process of its own: what fails or hangs costs one line and its share of the time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .common import Subject
from .plot import sessions_plot
from .talk import IN_TIME_MS

BUDGET_S: Final = 520.0
"""Seconds for all of them."""


@dataclass(frozen=True)
class _Task:
    name: str
    arguments: tuple[str, ...]
    seconds: float


TASKS: Final = (
    # What the engine is judged by comes first: it is measured even if all of it takes as long as it may.
    _Task("engine", ("engine",), 80),
    _Task("flow", ("flow",), 45),
    _Task("first-audio", ("first-audio",), 60),
    _Task("sessions", ("sessions",), 110),
    _Task("engine-fp8", ("engine", "--precision", "fp8"), 65),
    _Task("engine-transformers", ("engine", "--peer", "transformers", "--slots", "1"), 150),
    # The rest, as far as time goes.
    _Task("sessions-fp8", ("sessions", "--precision", "fp8", "--kv-cache", "fp8"), 120),
    _Task("first-audio-fp8", ("first-audio", "--precision", "fp8"), 70),
    _Task("attention", ("attention",), 40),
    _Task("loop", ("loop",), 60),
    _Task("engine-fp8-cache", ("engine", "--precision", "fp8", "--kv-cache", "fp8"), 70),
    _Task("engine-int8", ("engine", "--precision", "int8"), 70),
)


def measure_all(subject: Subject, out: Path) -> int:
    """Run them one after another; NAME.json, NAME.profile.txt and NAME.log go to `out`, all figures to summary.json,
    sessions against first audio to sessions.svg.

    Returns 0 when at least one could be measured.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, object] = {}
    began = time.monotonic()
    measured = 0
    for task in TASKS:
        left = BUDGET_S - (time.monotonic() - began)
        name, wanted = task.name, min(task.seconds, left)
        if wanted < 10:
            result: dict[str, object] = {"error": "no time was left for it"}
        else:
            result = _run(task, subject, out, wanted)
        summary[name] = result
        measured += "error" not in result
        _draw(summary, out)
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(f"{name}: {result.get('error') or headline(result)}", flush=True)
    return 0 if measured else 1


def _draw(summary: dict[str, Any], out: Path) -> None:
    """Draw the measurements of many sessions that there are."""
    series = {}
    for figures in summary.values():
        if figures.get("bench") == "sessions" and any(row["first_audio_ms"] for row in figures["rows"]):
            rounded = ", fp8 cache" if figures["kv_cache"] == "fp8" else ""
            series[figures["precision"] + rounded] = figures["rows"]
    if series:
        (out / "sessions.svg").write_text(sessions_plot(series, IN_TIME_MS))


def _run(task: _Task, subject: Subject, out: Path, seconds: float) -> dict[str, object]:
    bench, *options = task.arguments
    command = [sys.executable, "-m", "speechgpt_gen.streaming.bench", bench]
    command += ["--model", subject.model, "--device", subject.device, "--slots", str(subject.slots)]
    command += ["--context", str(subject.context), "--profile", str(out / f"{task.name}.profile.txt")]
    command += [*(["--quick"] if subject.quick else []), *options]
    log = out / f"{task.name}.log"
    try:
        with log.open("w") as errors:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=errors, timeout=seconds, check=False, text=True
            )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} s"}
    if done.returncode != 0 or not done.stdout.strip():
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"ended with code {done.returncode} and said nothing"}
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    (out / f"{task.name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def headline(figures: dict[str, object]) -> str:
    """The figure that matters most of one measurement."""
    match figures:
        case {"steps": [{"tokens_per_s": rate, "share_of_copy": share}, *_], **rest}:
            times = f", {rest['times_transformers']} x transformers" if "times_transformers" in rest else ""
            return f"{rate} tok/s alone, {share} of the copy bandwidth{times}"
        case {"batches": [{"flow_ms": first}, *_]}:
            return f"{first} ms a block alone"
        case {"parts_ms": {"first_audio": first}}:
            return f"first audio {first} ms"
        case {"bench": "loop", "rows": rows, "equal": equal}:
            early = rows[1]["early"]  # type: ignore[index]
            same = "the same tokens" if equal else "OTHER TOKENS"
            plain, looped = (early[name]["p50"] for name in ("plain_ms", "loop_ms"))
            return f"a burst that ends early {plain} ms plainly, {looped} looped, {same}"
        case {"bench": "attention", "rows": rows}:
            quickest = [row["quickest"] for row in rows]  # type: ignore[attr-defined]
            return ", ".join(f"{name} in {quickest.count(name)} shapes" for name in dict.fromkeys(quickest))
        case {"in_real_time": count}:
            return f"{count} at once in real time"
    return "measured"
