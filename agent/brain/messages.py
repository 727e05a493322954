"""A conversation as chat models want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...streaming.engine.protocol import CallMessage, Message, Request, ResultMessage, Tool


def chat_messages(prompt: str, history: Sequence[Message], instructions: str | None) -> list[dict[str, Any]]:
    """Messages of the chat completions API.

    prompt: comes first, before the history's system text or the `instructions` that take its place. A result follows
    its call at once, wherever it came in; a call without a result and a result without a call are left out, because
    servers refuse both.
    """
    results = {message.call_id: message.text for message in history if isinstance(message, ResultMessage)}
    own = [message.text for message in history if message.role == "system"]
    system = "\n\n".join(filter(None, [prompt, *(own if instructions is None else [instructions])]))
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for message in history:
        if isinstance(message, CallMessage):
            if message.call_id in results:
                messages += [_call(message), _result(message.call_id, results[message.call_id])]
        elif not isinstance(message, ResultMessage) and message.role != "system":
            messages.append({"role": message.role, "content": message.text})
    return messages


def chat_tools(request: Request) -> dict[str, Any]:
    """The arguments that offer a request's tools; none when it has no tools."""
    if not request.tools:
        return {}
    choice = request.tool_choice
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, Tool) else choice
    return {"tools": [_tool(tool) for tool in request.tools], "tool_choice": named}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _call(call: CallMessage) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call.call_id, "type": "function", "function": function}],
    }


def _result(call_id: str, output: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": output}
