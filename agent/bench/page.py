"""The report of a measurement as one HTML file: no script, nothing fetched, light and dark."""

from collections.abc import Sequence
from html import escape
from typing import Any

from . import plots
from .conversation import PARTS
from .sessions import Session

STAGES = {
    "end_of_turn": "turn found to be over",
    "first_token": "first token",
    "first_audio": "first audio made",
    "played": "first audio sent",
}
"""What a person reads for our server's stages."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #6b6f76; --line: #d9d9d6; --paper: #f7f6f3; --card: #fff;
  --bar: #2f6fdb; --mark: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececea; --soft: #9aa0a8; --line: #34373c; --paper: #131416;
  --card: #1c1e21; --bar: #6aa1ff; --mark: #fb923c; } }
body { margin: 0 auto; padding: 24px 16px 64px; max-width: 780px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1.05rem; margin: 32px 0 8px; }
p { margin: 0; color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0;
  padding: 0; }
.cards li { list-style: none; padding: 12px 14px; }
.cards li, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.cards b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; } .cards span { color: var(--soft); }
figure { margin: 0; padding: 14px; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .value { fill: var(--ink); } svg rect, svg circle { fill: var(--bar); }
svg circle { fill-opacity: .75; } svg .grid { stroke: var(--line); } svg path { fill: none; stroke: var(--bar); }
svg .mark { stroke: var(--mark); stroke-dasharray: 4 3; } svg text.mark { stroke: none; fill: var(--mark); }
svg .whisker { stroke: var(--bar); stroke-width: 2; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } .bad { color: var(--mark); }
"""


def page(figures: dict[str, Any], sessions: Sequence[Session]) -> str:
    """The whole file, from `report`'s figures and the sessions they were made of."""
    conditions = [f"{figures['sessions']} at once" if figures["sessions"] > 1 else "one session"]
    if figures["loss"] or figures["jitter_ms"]:
        conditions.append(f"{100 * figures['loss']:g} % of packets lost, up to {figures['jitter_ms']:g} ms late")
    title = f"{figures['turns']} turns over {figures['transport']}"
    body = [f"<h1>{title}</h1>", f"<p>{escape(figures['url'])} · {' · '.join(conditions)}</p>", _cards(figures)]
    body += [_section(*section) for section in _plots(figures, sessions)]
    body.append(_section("Every turn", f'<div class="scroll">{_table(figures["each"])}</div>', framed=False))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!doctype html><html lang="en"><head>{head}<title>{title}</title><style>{_STYLE}</style></head><body>' + (
        "\n".join(body) + "</body></html>\n"
    )


def _cards(figures: dict[str, Any]) -> str:
    def pair(values: dict[str, float] | None) -> str:
        return f"{values['p50']:.0f} / {values['p95']:.0f}" if values else "–"

    cards = {
        "voice to voice, ms p50 / p95": pair(figures["voice_to_voice_ms"]),
        "of it endpointing": pair(figures["endpointing_ms"]),
        "of it the answer": pair(figures["answering_ms"]),
        "gaps in answers": str(figures["underruns"]),
        "turns failed": str(figures["failed"]),
    }
    if figures["barge_in_stop_ms"]:
        cards["stop after barge-in, ms p50 / p95"] = pair(figures["barge_in_stop_ms"])
    if figures["packets"]:
        cards["packets late, ms p99"] = f"{figures['packets']['late_ms']['p99']:.0f}"
    items = (f"<li><b>{value}</b><span>{name}</span></li>" for name, value in cards.items())
    return f'<ul class="cards">{"".join(items)}</ul>'


def _plots(figures: dict[str, Any], sessions: Sequence[Session]) -> list[tuple[str, str]]:
    sections: list[tuple[str, str]] = []
    each = [turn for turn in figures["each"] if turn["voice_to_voice_ms"] is not None]
    if each:
        values = [turn["voice_to_voice_ms"] for turn in each]
        titles = [f"session {turn['session']}: {turn['voice_to_voice_ms']:.0f} ms" for turn in each]
        both = figures["voice_to_voice_ms"]
        lines = {f"{name} {both[name]:.0f} ms": both[name] for name in ("p50", "p95")}
        sections.append(("Voice to voice", plots.dots(values, titles, lines, label="turns, in order", unit="ms")))
        rows = [("endpointing", figures["endpointing_ms"])]
        rows += [(f"server: {STAGES[part]}", figures["parts_ms"][part]) for part in PARTS]
        rows.append(("first voice heard", figures["voice_to_voice_ms"]))
        known = [(name, value["p50"], value["p95"]) for name, value in rows if value]
        sections.append(
            ("From the user's last voiced sample", plots.bars(known, label="stages of a turn, p50 and p95", unit="ms"))
        )
    stops = [turn["barge_in_stop_ms"] for turn in figures["each"] if turn["barge_in_stop_ms"] is not None]
    if stops:
        lines = {f"p95 {figures['barge_in_stop_ms']['p95']:.0f} ms": figures["barge_in_stop_ms"]["p95"]}
        drawn = plots.dots(
            stops, [f"{stop:.0f} ms" for stop in stops], lines, label="interruptions, in order", unit="ms"
        )
        sections.append(("Sound after a barge-in", drawn))
    late = [1000 * value for session in sessions for value in session.lateness]
    if late:
        label = "ms later than the quickest packet of the last ten seconds"
        sections.append(("Packets by lateness", plots.histogram(late, label=label, unit="ms")))
    lagging = [session for session in sessions if session.lags]
    if lagging:
        series = [_lags(session) for session in lagging]
        sections.append(
            (
                "Delay of the listener",
                plots.steps(series, label="seconds into the call, delay beyond its least", unit="ms"),
            )
        )
    return sections


def _lags(session: Session) -> list[tuple[float, float]]:
    """At most a thousand points: the greatest delay of each stretch."""
    begin, end = session.lasted
    least = min(lag for _, lag in session.lags)
    bins: dict[int, float] = {}
    for at, lag in session.lags:
        place = int(1000 * (at - begin) / max(end - begin, 1e-9))
        bins[place] = max(bins.get(place, 0.0), 1000 * (lag - least))
    points = [(place * (end - begin) / 1000, value) for place, value in sorted(bins.items())]
    return [*points, (end - begin, points[-1][1])]


def _section(title: str, content: str, *, framed: bool = True) -> str:
    return f"<h2>{title}</h2>" + (f"<figure>{content}</figure>" if framed else content)


def _table(each: Sequence[dict[str, Any]]) -> str:
    names = ("session", "voice to voice", "endpointing", "answer", "gaps", "barge-in stop", "heard", "answered")
    head = "".join(
        f'<th class="n">{name}</th>' if number < 6 else f"<th>{name}</th>" for number, name in enumerate(names)
    )
    rows = []
    for turn in each:
        numbers = [turn[f"{name}_ms"] for name in ("voice_to_voice", "endpointing", "answering")]
        cells = [
            str(turn["session"]),
            *map(_number, numbers),
            str(turn["underruns"]),
            _number(turn["barge_in_stop_ms"]),
        ]
        text = f"<td>{escape(turn['heard'])}</td>"
        text += (
            f'<td class="bad">{escape(turn["error"])}</td>' if turn["error"] else f"<td>{escape(turn['answer'])}</td>"
        )
        rows.append("<tr>" + "".join(f'<td class="n">{cell}</td>' for cell in cells) + text + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
