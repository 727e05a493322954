"""What comes in: JSON and forms, no larger than allowed, checked field by field."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message

from .client_events import event_error
from .refusals import Refused

MAX_JSON_BYTES = 2**20
_MAX_FIELD_BYTES = 2**16
_MAX_FIELDS = 32

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises Refused (413) as soon as it is larger than `max_bytes`."""
    body = bytearray()
    async for chunk in _capped(request, max_bytes).stream():
        body += chunk
    return bytes(body)


async def read_json(request: Request, model: type[Model]) -> Model:
    """A JSON body as `model`. Raises Refused, naming the field at fault."""
    body = await read_body(request, MAX_JSON_BYTES)
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_json", "the body is not valid JSON") from None
    if not isinstance(fields, dict):
        raise Refused(400, "invalid_json", "the body must be a JSON object")
    return checked(fields, model)


@asynccontextmanager
async def read_form(request: Request, max_bytes: int) -> AsyncIterator[FormData]:
    """A multipart form; its files are gone afterwards. Raises Refused or HTTPException for one that can't be read."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refused(415, "unsupported_media_type", "send the recording as multipart/form-data, in the field `file`")
    capped = _capped(request, max_bytes)
    async with capped.form(max_files=2, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES) as form:
        yield form


def form_fields(form: FormData, model: type[Model]) -> Model:
    """The fields of a form that are not files, as `model`; those named `x[]` are lists."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(value)
        else:
            fields[name] = value
    return checked(fields, model)


async def uploaded(form: FormData, name: str) -> bytes:
    """The content of a form's file. Raises Refused when there is none."""
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise Refused(400, "missing_required_parameter", f"missing required parameter: {name} (a file)", name)
    return await file.read()


def checked(fields: dict[str, Any], model: type[Model]) -> Model:
    """Fields as `model`. Raises EventError with the first fault."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise event_error(error) from None


def _capped(request: Request, max_bytes: int) -> Request:
    """The same request, that refuses to be read beyond `max_bytes`."""
    too_large = Refused(413, "too_large", f"the request is larger than {max_bytes} bytes: send less")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    taken = 0

    async def receive() -> Message:
        nonlocal taken
        message = await request.receive()
        taken += len(message.get("body", b""))
        if taken > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)
