"""What an answer is made from: the user's last speech or words, and the history before them."""

from __future__ import annotations

from dataclasses import dataclass

from ...models.semantic.pieces import Message
from ...streaming.engine.protocol import Request
from ...streaming.frames import FRAME_RATE
from ..event_objects import (
    FunctionCallOutputItem,
    ItemReference,
    MessageItem,
    Modality,
    Response,
    ResponseAudio,
    ResponseAudioOutput,
    ResponseOptions,
    Session,
    new_id,
)
from ..events import EventError
from ..settings import Settings
from .codec import decode_recording
from .function_calls import choice, offered
from .items import AnyItem, Entry, Items, history, unanswered
from .speech import UserSpeech


@dataclass(frozen=True)
class Plan:
    """speech: what the engine must have heard; None for a typed turn, whose words are in the request."""

    request: Request
    history: tuple[Message, ...]
    speech: UserSpeech | None


def make_plan(options: ResponseOptions, session: Session, items: Items, settings: Settings) -> Plan:
    """Plan an answer to the user's items since the last one. Raises EventError when there is nothing to answer.

    The last item decides: speech is answered as speech, earlier words of the user are history; typed words of several
    items are one turn; the result of a function call lets the answer go on.
    """
    entries = items.before(None) if options.input is None else _own_input(options, session, items)
    if entries and isinstance(entries[-1].item, FunctionCallOutputItem):
        shown = history(entries, session.instructions, settings.shown_turns)
        return Plan(make_request(options, session, settings, None), shown, None)
    pending = unanswered(entries)
    text = None
    speech = pending[-1].speech if pending else None
    before = entries[: entries.index(pending[-1 if speech is not None else 0])] if pending else entries
    if speech is None:
        text = " ".join(filter(None, (entry.text for entry in pending))) or options.instructions
        if not text:
            raise EventError("nothing_to_answer", "there is nothing to answer: append audio or create a user item")
    shown = history(before, session.instructions, settings.shown_turns)
    return Plan(make_request(options, session, settings, text), shown, speech)


def make_request(options: ResponseOptions, session: Session, settings: Settings, text: str | None) -> Request:
    """The engine's side of response.create; `text` for a typed turn."""
    speak = modality(options, session) == "audio"
    longest = options.max_output_tokens or session.max_output_tokens
    limit = settings.max_answer_s if longest == "inf" else min(settings.max_answer_s, longest / FRAME_RATE)
    tools = offered(options, session)
    return Request(
        kind="reply",
        text=text,
        mode=settings.answer_mode if speak else "text",
        speak=speak,
        instructions=options.instructions,
        max_seconds=limit,
        tools=tools,
        tool_choice=choice(options, session, tools),
    )


def modality(options: ResponseOptions, session: Session) -> Modality:
    """Whether the answer shall be spoken or written."""
    return (options.output_modalities or session.output_modalities)[0]


def make_response(options: ResponseOptions, session: Session, voice: str) -> Response:
    """The response as it begins; what response.create does not say is the session's."""
    asked = options.audio.output.format if options.audio is not None else None
    kept = options.conversation == "auto"
    return Response(
        id=new_id("resp"),
        conversation_id=f"conv_{session.id.removeprefix('sess_')}" if kept else None,
        output_modalities=[modality(options, session)],
        max_output_tokens=options.max_output_tokens or session.max_output_tokens,
        audio=ResponseAudio(output=ResponseAudioOutput(voice=voice, format=asked or session.audio.output.format)),
        metadata=options.metadata,
    )


def item_speech(item: AnyItem, session: Session, param: str) -> UserSpeech | None:
    """The sound of a user's item that came with audio, None for any other.

    Raises EventError for bad audio, and for a content part that lacks what makes it one.
    """
    if not isinstance(item, MessageItem):
        return None
    speech: UserSpeech | None = None
    for index, part in enumerate(item.content):
        where = f"{param}.content[{index}]"
        if part.type in ("input_text", "output_text") and part.text is None:
            raise EventError("missing_required_parameter", f"missing required parameter: {where}.text", f"{where}.text")
        if part.type == "input_audio" and part.audio is None and part.transcript is None:
            path = f"{where}.audio"
            raise EventError("missing_required_parameter", f"missing required parameter: {path}", path)
        if part.audio is not None:
            speech = speech or UserSpeech(item.id, None)
            speech.append(decode_recording(part.audio, session.audio.input.format, f"{where}.audio"))
            part.audio = None
    return speech


def _own_input(options: ResponseOptions, session: Session, items: Items) -> list[Entry]:
    """Entries of a response that brings its own input, which never enters the conversation."""
    entries = []
    for index, item in enumerate(options.input or []):
        if isinstance(item, ItemReference):
            entries.append(items.get(item.id))
        else:
            item.id = item.id or new_id("item")
            entries.append(Entry(item, speech=item_speech(item, session, f"response.input[{index}]")))
    return entries
