"""What a terminal shows of a conversation: captions of both sides, how loud each is, and what is going on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

QUIETEST = -60.0
_BAR = 24
_ROWS = 3
"""Lines below the captions: two levels and the status."""

_STATES = {
    "input_audio_buffer.speech_started": "hearing you",
    "input_audio_buffer.speech_stopped": "thinking",
    "response.created": "thinking",
    "output_audio_buffer.started": "speaking",
    "response.output_audio.delta": "speaking",
    "output_audio_buffer.stopped": "listening",
    "output_audio_buffer.cleared": "listening",
    "response.done": "listening",
    "session.created": "listening",
}


@dataclass
class Line:
    """One turn of one side. cut: it was interrupted; done: nothing more will be added."""

    who: str
    text: str = ""
    cut: bool = False
    done: bool = False


class Captions:
    """The conversation as its events tell it.

    Attributes:
        lines: by item, in the order of the conversation. state: what the agent does. note: the latest trouble.
        waited_ms: from the user's last sound to the answer's first, where the server tells.
    """

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.state = "connecting"
        self.note = ""
        self.waited_ms: float | None = None

    def take(self, event: dict[str, Any]) -> None:
        """One event of the server, or of the client."""
        kind = event["type"]
        self.state = _STATES.get(kind, self.state)
        match kind:
            case "input_audio_buffer.speech_started":
                self._line(event, "you")
            case "conversation.item.added":
                self._added(event["item"])
            case "conversation.item.input_audio_transcription.delta":
                self._line(event, "you").text += event["delta"]
            case "conversation.item.input_audio_transcription.completed":
                line = self._line(event, "you")
                line.text, line.done = event.get("transcript") or "", True
            case "response.output_audio_transcript.delta" | "response.output_text.delta":
                self._line(event, "agent").text += event["delta"]
            case "response.done":
                self._answered(event["response"])
            case "session.created":
                self.note = ""
            case "client.reconnecting":
                self.state = f"reconnecting in {event['in_seconds']:g} s"
                self.note = event["reason"]
            case "error":
                self.note = event["error"]["message"]

    def _line(self, event: dict[str, Any], who: str) -> Line:
        return self.lines.setdefault(event["item_id"], Line(who))

    def _added(self, item: dict[str, Any]) -> None:
        if item.get("type") == "message" and item.get("role") in ("user", "assistant"):
            self.lines.setdefault(item["id"], Line("you" if item["role"] == "user" else "agent"))

    def _answered(self, response: dict[str, Any]) -> None:
        for item in response.get("output") or []:
            line = self.lines.get(item.get("id"))
            if line is None:
                continue
            line.done, line.cut = True, response.get("status") == "cancelled"
            said = " ".join(part.get("transcript") or part.get("text") or "" for part in item.get("content") or [])
            if said or line.cut:
                line.text = said  # of an answer that was cut, only what was heard
        if response.get("status") == "failed":
            why = (response.get("status_details") or {}).get("error") or {}
            self.note = why.get("message") or "no answer this time"
        played = (response.get("metadata") or {}).get("played_ms")
        self.waited_ms = float(played) if played is not None else self.waited_ms


def draw(captions: Captions, user_db: float, agent_db: float, height: int) -> RenderableType:
    """The screen, at most `height` rows; the oldest captions go first."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(ratio=1)
    spoken = [line for line in captions.lines.values() if line.text]
    for line in spoken[-max(1, height - _ROWS - 2) :]:
        table.add_row(line.who, text_of(line))
    status = Text(captions.state, style="bold")
    if captions.waited_ms is not None:
        status.append(f"  answered after {captions.waited_ms:.0f} ms", style="dim")
    if captions.note:
        status.append(f"  {captions.note}", style="yellow")
    status.truncate(200, overflow="ellipsis")
    return Group(table, Text(), _meter("you", user_db, "green"), _meter("agent", agent_db, "cyan"), status)


def text_of(line: Line) -> Text:
    """A caption; words that are still being spoken are dim."""
    text = Text(line.text.strip(), style="" if line.done else "dim")
    return text.append(" — interrupted", style="italic dim") if line.cut else text


def _meter(name: str, db: float, colour: str) -> Text:
    filled = round(_BAR * max(0.0, min(1.0, 1 - db / QUIETEST)))
    return Text.assemble((f"{name:>5} ", "dim"), ("█" * filled, colour), ("·" * (_BAR - filled), "dim"))
