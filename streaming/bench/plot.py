"""Sessions against first audio as an SVG: drawn without a library, and readable on a light page and a dark one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from .common import Figures

WIDTH: Final = 720
HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 150, 18, 48
_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #57534e }
.grid { stroke: #d6d3d1 } .limit { stroke: #57534e; stroke-dasharray: 5 4 }
path { fill: none; stroke: var(--line); stroke-width: 2 } circle { fill: var(--line) } .half { stroke-dasharray: 2 4 }
.line0 { --line: #c2410c } .line1 { --line: #0369a1 } .line2 { --line: #4d7c0f }
@media (prefers-color-scheme: dark) {
  text { fill: #a8a29e } .grid { stroke: #44403c } .limit { stroke: #a8a29e }
  .line0 { --line: #fb923c } .line1 { --line: #38bdf8 } .line2 { --line: #a3e635 }
}
"""


def sessions_plot(series: Mapping[str, Sequence[Figures]], limit_ms: float) -> str:
    """Lines of p95 (whole) and p50 (dotted) first audio over the number of sessions, and the limit.

    series: rows of `bench_sessions` by name; a row in which nobody was heard is left out. Raises ValueError when no
    row is left.
    """
    heard: dict[str, list[tuple[int, Mapping[str, float]]]] = {
        name: [(row["sessions"], row["first_audio_ms"]) for row in rows if row["first_audio_ms"] is not None]
        for name, rows in series.items()
    }
    points: list[tuple[int, Mapping[str, float]]] = [point for line in heard.values() for point in line]
    if not points:
        raise ValueError("nothing was heard in any row: there is nothing to draw")
    most = max(count for count, _ in points)
    highest = max(limit_ms, *(spread["p95"] for _, spread in points))
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10**9) if highest <= 6 * step)
    top = float(step * -(-highest // step))

    def x(count: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * count / most

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top

    parts = [f"<style>{_STYLE}</style>"]
    for mark in range(int(top // step) + 1):
        at = y(mark * step)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{mark * step:g} ms</text>')
    for count in sorted({count for count, _ in points}):
        parts.append(f'<text x="{x(count):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{count}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">sessions speaking at once</text>')
    for row, text in enumerate(("first audio:", "p95 line, p50 dots")):
        parts.append(f'<text x="{WIDTH - _RIGHT + 14}" y="{HEIGHT - _BOTTOM - 16 + 18 * row}">{text}</text>')
    at = y(limit_ms)
    parts.append(f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
    for number, (name, line) in enumerate(heard.items()):
        parts.append(f'<g class="line{number % 3}">')
        for part, style in (("p50", ' class="half"'), ("p95", "")):
            path = " L".join(f"{x(count):.1f} {y(spread[part]):.1f}" for count, spread in line)
            parts.append(f'<path{style} d="M{path}"/>')
        for count, spread in line:
            title = f"{name}, {count} at once: p50 {spread['p50']:g}, p95 {spread['p95']:g} ms"
            place = f'cx="{x(count):.1f}" cy="{y(spread["p95"]):.1f}"'
            parts.append(f'<circle {place} r="4"><title>{escape(title)}</title></circle>')
        parts.append(_legend(number, name))
        parts.append("</g>")
    label = f"First audio over sessions speaking at once: p95 whole, p50 dotted; limit {limit_ms:g} ms"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">\n{inside}\n</svg>\n'
    )


def _legend(number: int, name: str) -> str:
    """A line's name at the right."""
    left, at = WIDTH - _RIGHT + 14, _TOP + 8 + 22 * number
    mark = f'<path d="M{left} {at}h18"/>'
    return f'{mark}<text x="{left + 26}" y="{at + 4}">{escape(name)}</text>'
