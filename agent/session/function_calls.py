"""The function calls of one answer: their events, in order, as the pieces come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...streaming.engine.protocol import EngineInfo, FunctionCall, Tool
from ..event_objects import (
    FunctionCallItem,
    FunctionCallOutputItem,
    FunctionChoice,
    FunctionTool,
    ResponseOptions,
    Session,
    Status,
    new_id,
)
from ..events import (
    ArgumentsDelta,
    ArgumentsDone,
    EventError,
    ItemAdded,
    ItemDone,
    OutputItemAdded,
    OutputItemDone,
    ServerEvent,
)
from .items import Entry

Add = Callable[[Entry], str | None]
"""Makes an entry part of the conversation; returns the id of the item before it."""


class FunctionCalls:
    """FunctionCalls that one response makes.

    add: None for a response outside the conversation. index: the place of the next item in the response's output.

    Attributes:
        items: of the calls begun so far.
    """

    def __init__(
        self, response_id: str, emit: Callable[[ServerEvent], None], add: Add | None, index: Callable[[], int]
    ) -> None:
        self.items: list[FunctionCallItem] = []
        self._response_id, self._emit, self._add, self._index = response_id, emit, add, index
        self._open: dict[str, tuple[FunctionCallItem, int, str | None]] = {}

    def take(self, piece: FunctionCall) -> None:
        """More of a call. Several may be on their way at once."""
        if piece.call_id not in self._open:
            self._begin(piece)
        item, index, _ = self._open[piece.call_id]
        if piece.arguments:
            item.arguments += piece.arguments
            self._emit(ArgumentsDelta(**self._where(item, index), delta=piece.arguments))
        if piece.last:
            self._end(piece.call_id, "completed")

    def close(self) -> None:
        """The answer ends: calls that are not whole will not become so."""
        for call_id in list(self._open):
            self._end(call_id, "incomplete")

    def _begin(self, piece: FunctionCall) -> None:
        item = FunctionCallItem(
            id=new_id("item"), status="in_progress", call_id=piece.call_id, name=piece.name, arguments=""
        )
        index, previous = self._index(), None
        self.items.append(item)
        self._emit(OutputItemAdded(response_id=self._response_id, output_index=index, item=item.model_copy()))
        if self._add is not None:
            previous = self._add(Entry(item))
            self._emit(ItemAdded(item=item.model_copy(), previous_item_id=previous))
        self._open[piece.call_id] = item, index, previous

    def _end(self, call_id: str, status: Status) -> None:
        item, index, previous = self._open.pop(call_id)
        item.status = status
        self._emit(ArgumentsDone(**self._where(item, index), name=item.name, arguments=item.arguments))
        self._emit(OutputItemDone(response_id=self._response_id, output_index=index, item=item.model_copy()))
        if self._add is not None:
            self._emit(ItemDone(item=item.model_copy(), previous_item_id=previous))

    def _where(self, item: FunctionCallItem, index: int) -> dict[str, Any]:
        return {
            "response_id": self._response_id,
            "item_id": item.id,
            "output_index": index,
            "call_id": item.call_id or "",
        }


def offered(options: ResponseOptions, session: Session) -> tuple[Tool, ...]:
    """The functions that an answer may call."""
    tools = session.tools if options.tools is None else options.tools
    empty = {"type": "object", "properties": {}}
    return tuple(Tool(tool.name, tool.description or "", tool.parameters or empty) for tool in tools)


def choice(options: ResponseOptions, session: Session, tools: tuple[Tool, ...]) -> Any:
    """Whether the answer must call one of `tools`, or which. Raises EventError for one that is not offered."""
    chosen = session.tool_choice if options.tool_choice is None else options.tool_choice
    if not isinstance(chosen, FunctionChoice):
        return chosen
    for tool in tools:
        if tool.name == chosen.name:
            return tool
    param = "session.tool_choice" if options.tool_choice is None else "response.tool_choice"
    raise EventError("invalid_value", f"{param} names {chosen.name!r}, which is not among the tools", param)


def check_tools(tools: Sequence[FunctionTool] | None, info: EngineInfo, param: str) -> None:
    """Raise EventError where functions are offered and nobody is there to call them."""
    if tools and not info.calls:
        raise EventError("unsupported_parameter", f"{param}: {_NEEDS_BRAIN}", param)


def check_item(item: object, info: EngineInfo, param: str) -> None:
    """Raise EventError for an item of a function call where nobody calls functions."""
    if isinstance(item, FunctionCallItem | FunctionCallOutputItem) and not info.calls:
        raise EventError("unsupported_parameter", f"{param} {item.type!r}: {_NEEDS_BRAIN}", param)


_NEEDS_BRAIN = "the model of this server calls no functions; an outside brain does (serve --brain)"
