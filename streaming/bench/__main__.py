"""`python -m speechgpt_gen.streaming.bench NAME`, or `all`: measure on a bare machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...models.errors import SpeechGPTGenError
from .common import Subject
from .every import measure_all
from .plot import sessions_plot
from .run import BENCHES, measure
from .talk import IN_TIME_MS


def main(arguments: list[str] | None = None) -> int:
    """Run one measurement and print one JSON object, or all of them into a folder."""
    parser = argparse.ArgumentParser(prog="python -m speechgpt_gen.streaming.bench", description=__doc__)
    parser.add_argument("bench", choices=[*BENCHES, "all"])
    parser.add_argument("--model", default="8b", help="8b, tiny, nano or a folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default=None, help="bfloat16, fp8, int8, float32")
    parser.add_argument("--slots", type=int, default=32, help="conversations at a time")
    parser.add_argument("--context", type=int, default=2048, help="tokens of one conversation")
    parser.add_argument("--kv-cache", choices=["fp8"], default=None, help="keys and values in half the memory")
    parser.add_argument("--peer", choices=["transformers"], default=None, help="engine: measure this one as well")
    parser.add_argument("--profile", type=Path, default=None, help="write a table of kernels to this file")
    parser.add_argument("--plot", type=Path, default=None, help="sessions: draw them to this SVG file")
    parser.add_argument("--out", type=Path, default=None, help="all: the folder for the results")
    parser.add_argument("--quick", action="store_true", help="few repeats: to see whether it works")
    given = parser.parse_args(arguments)
    subject = Subject(
        given.model, given.device, given.precision, given.slots, given.context, given.quick, given.kv_cache
    )
    if given.bench == "all":
        if given.out is None:
            parser.error("all needs --out FOLDER")
        return measure_all(subject, given.out)
    try:
        figures, profile = measure(given.bench, subject, given.peer)
    except SpeechGPTGenError as error:
        print(f"speechgpt-gen: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if given.profile is not None:
        given.profile.write_text(profile)
    if given.plot is not None and "rows" in figures and given.bench == "sessions":
        given.plot.write_text(sessions_plot({subject.weights: figures["rows"]}, IN_TIME_MS))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
