"""The chat model: any endpoint that speaks OpenAI's chat completions, streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from ...models.errors import ConfigError, SpeechGPTGenError
from ...streaming.engine.protocol import FunctionCall, Message, Request, Text
from ..settings import Settings
from .messages import chat_messages, chat_tools
from .thoughts import Thoughts

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk


class BrainError(SpeechGPTGenError):
    """The chat model did not answer, or not to the end."""


class ChatModel:
    """One endpoint and one model of it. Raises ConfigError when the `openai` package is missing or a setting is."""

    def __init__(self, settings: Settings) -> None:
        try:
            import openai
        except ImportError:
            raise ConfigError("an outside brain needs the openai package: pip install 'speechgpt-gen[brain]'") from None
        if settings.brain_model is None:
            raise ConfigError("brain_model is missing: name the model that the brain shall run")
        self.where = f"{settings.brain_model} at {settings.brain}"
        self._model, self._prompt, self._patience = (
            settings.brain_model,
            settings.brain_prompt,
            settings.brain_timeout_s,
        )
        key = settings.brain_key
        self._client = openai.AsyncOpenAI(
            base_url=settings.brain,
            # Without one the package would send along a key that it finds in the environment, to whom it may concern.
            api_key=key.get_secret_value() if key is not None else "none",
            max_retries=settings.brain_retries,
            timeout=settings.brain_timeout_s,
        )
        # The package imports this part when it is first asked for, which would hold up the first answer by seconds.
        self._completions = self._client.chat.completions

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    async def answer(self, history: Sequence[Message], request: Request) -> AsyncGenerator[Text | FunctionCall, None]:
        """The answer to a history, as it comes. Raises BrainError, one line, also when it ends too soon."""
        import openai

        messages = chat_messages(self._prompt, history, request.instructions)
        try:
            async with asyncio.timeout(self._patience):
                asked: dict[str, Any] = {"messages": messages, **chat_tools(request)}
                stream = await self._completions.create(model=self._model, stream=True, **asked)
            async with stream:
                async for piece in self._pieces(stream):
                    yield piece
        except TimeoutError:
            raise BrainError(f"{self.where} has said nothing for {self._patience:g} s") from None
        except openai.APIStatusError as error:
            raise BrainError(f"{self.where} answers {error.status_code}: {_line(error.message)}") from None
        except (openai.APIError, ValueError) as error:
            raise BrainError(f"{self.where} failed: {_line(error) or type(error).__name__}") from None

    async def _pieces(self, stream: AsyncIterator[ChatCompletionChunk]) -> AsyncGenerator[Text | FunctionCall, None]:
        thoughts = Thoughts()
        calls: dict[int, tuple[str, str]] = {}
        finished: str | None = None
        while True:
            async with asyncio.timeout(self._patience):
                chunk = await anext(stream, None)
            if chunk is None:
                break
            for choice in chunk.choices[:1]:
                finished = choice.finish_reason or finished
                if spoken := thoughts.push(choice.delta.content or ""):
                    yield Text(spoken)
                for call in choice.delta.tool_calls or ():
                    yield _call_piece(call, calls)
        if rest := thoughts.finish():
            yield Text(rest)
        if finished is not None:
            for call_id, name in calls.values():
                yield FunctionCall(call_id, name, "", last=True)
        else:
            # The package takes a stream that is cut off for a whole one.
            raise BrainError(f"{self.where} broke off in the middle of its answer")


def _call_piece(call: Any, calls: dict[int, tuple[str, str]]) -> FunctionCall:
    """A piece of a call. Only its first one carries the id and the name; `calls` remembers them by its index."""
    function = call.function
    if call.index not in calls:
        calls[call.index] = (call.id or f"call_{call.index}", (function.name if function else None) or "")
    call_id, name = calls[call.index]
    return FunctionCall(call_id, name, (function.arguments if function else None) or "")


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
