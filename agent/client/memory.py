"""What a new connection must be told so that a conversation goes on: the session's settings, and what was said."""

from typing import Any

from .connection import Event

_KEPT = 40
"""Items told again: twenty turns."""


class Memory:
    """Reads the events of both sides."""

    def __init__(self) -> None:
        self._session: dict[str, Any] = {}
        self._said: dict[str, tuple[str, str]] = {}

    def sent(self, event: Event) -> None:
        """The client has sent this."""
        if event.get("type") == "session.update":
            _merge(self._session, event["session"])

    def received(self, event: Event) -> None:
        """The server has said this."""
        match event["type"]:
            case "conversation.item.added" | "conversation.item.created" | "conversation.item.done":
                self._keep(event["item"])
            case "conversation.item.input_audio_transcription.completed":
                self._said[event["item_id"]] = ("user", event.get("transcript") or "")
            case "conversation.item.deleted":
                self._said.pop(event["item_id"], None)
            case "response.done":
                for item in event["response"].get("output") or []:
                    self._keep(item)

    def replay(self) -> list[Event]:
        """Client events that bring a new session to where the old one was. Sound is told as its words."""
        events: list[Event] = []
        if self._session:
            events.append({"type": "session.update", "session": self._session})
        for role, text in self._said.values():
            if text:
                content = [{"type": "input_text" if role == "user" else "output_text", "text": text}]
                item = {"type": "message", "role": role, "content": content}
                events.append({"type": "conversation.item.create", "item": item})
        self._said.clear()  # the new session's own items take their place
        return events

    def _keep(self, item: dict[str, Any]) -> None:
        if item.get("type") != "message" or item.get("role") not in ("user", "assistant"):
            return
        parts = item.get("content") or []
        text = " ".join(part.get("text") or part.get("transcript") or "" for part in parts).strip()
        if text or item["id"] not in self._said:
            self._said[item["id"]] = (item["role"], text)
        while len(self._said) > _KEPT:
            self._said.pop(next(iter(self._said)))


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
