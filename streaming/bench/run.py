"""The measurements by name."""

from __future__ import annotations

from typing import Final

from .attention import bench_attention
from .common import Figures, Subject
from .decode import bench_engine
from .flow import bench_flow
from .loop import bench_loop
from .talk import bench_first_audio, bench_sessions

BENCHES: Final = ("engine", "flow", "first-audio", "sessions", "loop", "attention")


def measure(name: str, subject: Subject, peer: str | None = None) -> tuple[Figures, str]:
    """One measurement: its figures, and a profile as text. Raises SpeechGPTGenError for what cannot be measured."""
    if name == "engine":
        return bench_engine(subject, peer)
    others = {
        "flow": bench_flow,
        "first-audio": bench_first_audio,
        "sessions": bench_sessions,
        "loop": bench_loop,
        "attention": bench_attention,
    }
    return others[name](subject)
