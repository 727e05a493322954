"""Plots as inline SVG: they take their colours from the page, so that they fit its light and its dark."""

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 34
_ROW = 30
_LABELS = 190


def ticks(most: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough))
    return [step * number for number in range(int(np.ceil(most / step)) + 1)]


def dots(values: Sequence[float], titles: Sequence[str], lines: dict[str, float], *, label: str, unit: str) -> str:
    """One dot a value, in order, and named horizontal lines."""
    scale = ticks(max([*values, *lines.values()]))
    place = _Axes(len(values), scale[-1])
    parts = [place.grid(scale, unit), place.label(label)]
    for name, value in lines.items():
        y = place.y(value)
        beside = y - 4 if value == max(lines.values()) else y + 13
        parts.append(f'<line class="mark" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="mark" x="{WIDTH - _RIGHT}" y="{beside:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    for index, (value, title) in enumerate(zip(values, titles, strict=True)):
        point = f'cx="{place.x(index + 0.5):.1f}" cy="{place.y(value):.1f}"'
        parts.append(f'<circle {point} r="4"><title>{escape(title)}</title></circle>')
    return _svg(parts, label)


def histogram(values: Sequence[float], *, label: str, unit: str, bins: int = 30) -> str:
    """How often values fall into each of some ranges; the last range takes the rest above the 99.9th percentile."""
    most = max(float(np.percentile(values, 99.9)), 1e-9)
    scale = ticks(most)
    counts, edges = np.histogram(np.minimum(values, scale[-1]), bins=bins, range=(0.0, scale[-1]))
    height = ticks(float(counts.max()))
    place = _Axes(scale[-1], height[-1])
    parts = [place.grid(height, ""), place.label(label)]
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        x, y = place.x(low), place.y(float(count))
        box = f'x="{x:.1f}" y="{y:.1f}" width="{place.x(high) - x - 1:.1f}" height="{place.y(0) - y:.1f}"'
        parts.append(f"<rect {box}><title>{low:g} to {high:g} {escape(unit)}: {count}</title></rect>")
    parts.append(place.below(scale))
    return _svg(parts, label)


def bars(rows: Sequence[tuple[str, float, float]], *, label: str, unit: str) -> str:
    """Named rows of (p50, p95): a bar to the first, a whisker to the second."""
    scale = ticks(max(p95 for _, _, p95 in rows))
    width = WIDTH - _LABELS - 110
    height = _ROW * len(rows) + 20
    parts = []
    for number, (name, p50, p95) in enumerate(rows):
        y = number * _ROW + 4
        middle = y + _ROW / 2 - 4
        end, far = (_LABELS + width * value / scale[-1] for value in (p50, p95))
        parts.append(f'<text x="{_LABELS - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{_LABELS}" y="{y}" width="{max(end - _LABELS, 1):.1f}" height="{_ROW - 10}" rx="3"/>')
        parts.append(f'<line class="whisker" x1="{end:.1f}" x2="{far:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
        values = f"{p50:.0f} / {p95:.0f} {unit}"
        parts.append(f'<text class="value" x="{far + 8:.1f}" y="{middle + 4:.1f}">{escape(values)}</text>')
    return _svg(parts, label, height)


def steps(series: Sequence[Sequence[tuple[float, float]]], *, label: str, unit: str) -> str:
    """Lines of (time, value), each value standing until the next."""
    longest = max(points[-1][0] for points in series)
    scale = ticks(max(value for points in series for _, value in points))
    place = _Axes(longest, scale[-1])
    parts = [place.grid(scale, unit), place.below([at for at in ticks(longest) if at <= longest]), place.label(label)]
    for points in series:
        path = f"M{place.x(points[0][0]):.1f} {place.y(points[0][1]):.1f}"
        path += "".join(f"H{place.x(at):.1f}V{place.y(value):.1f}" for at, value in points[1:])
        parts.append(f'<path d="{path}"/>')
    return _svg(parts, label)


class _Axes:
    """From values to places on the drawing."""

    def __init__(self, most_x: float, most_y: float) -> None:
        self._across, self._up = max(most_x, 1e-9), most_y

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / self._across

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / self._up

    def grid(self, scale: Sequence[float], unit: str) -> str:
        out = ""
        for value in scale:
            y = self.y(value)
            name = f"{value:g} {unit}".strip()
            out += f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            out += f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        return out

    def below(self, scale: Sequence[float]) -> str:
        places = ((value, "end" if self.x(value) > WIDTH - 2 * _RIGHT else "middle") for value in scale)
        height = HEIGHT - _BOTTOM + 14
        return "".join(
            f'<text x="{self.x(at):.1f}" y="{height}" text-anchor="{end}">{at:g}</text>' for at, end in places
        )

    def label(self, text: str) -> str:
        return f'<text x="{_LEFT}" y="{HEIGHT - 4}">{escape(text)}</text>'


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
