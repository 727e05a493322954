"""What a caller may send: the body of POST /v1/realtime/calls, checked before anything is opened for it."""

from dataclasses import dataclass
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

from aiortc.sdp import SessionDescription
from pydantic_core import from_json
from starlette.requests import Request

from ..bodies import read_body
from ..refusals import Refused


@dataclass(frozen=True)
class Offer:
    """A usable offer.

    sdp: without mDNS candidates. key: the same for the same offer. events: it opens a data channel.
    session: initial session settings that came with it.
    """

    sdp: str
    key: str
    events: bool
    session: dict[str, Any] | None = None


async def read_offer(request: Request, *, max_bytes: int) -> Offer:
    """Offer from a request of type application/sdp, or multipart/form-data with the fields `sdp` and `session` (JSON).

    Raises:
        Refused: 413 too big, 415 another type, 400 malformed or not usable.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/sdp", "multipart/form-data"):
        raise Refused(
            415, "unsupported_media_type", f"content type {kind or 'none'} is not usable; send application/sdp"
        )
    body = await read_body(request, max_bytes)
    session = None
    if kind == "multipart/form-data":
        fields = _fields(request.headers["content-type"], body)
        if "sdp" not in fields:
            raise Refused(400, "missing_sdp", "the form has no field named sdp; put the offer there")
        body = fields["sdp"]
        session = _session(fields["session"]) if "session" in fields else None
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(400, "malformed_sdp", "the offer is not UTF-8 text") from None
    return check_offer(text, session)


def check_offer(sdp: str, session: dict[str, Any] | None = None) -> Offer:
    """Check that an offer is one that can be answered: one Opus audio line, maybe a data channel, nothing else.

    Raises:
        Refused: 400 with the reason.
    """
    if not sdp.strip():
        raise Refused(400, "missing_sdp", "the offer is empty; send the SDP of createOffer()")
    # Browsers hide their addresses behind mDNS names, which cost a multicast query each and often do not resolve; the
    # caller's checks reach our addresses anyway and show where it is (a peer-reflexive candidate).
    lines = [
        line
        for line in sdp.splitlines()
        if not (line.startswith("a=candidate:") and len(line.split()) > 4 and line.split()[4].endswith(".local"))
    ]
    sdp = "\r\n".join(lines) + "\r\n"
    try:
        description = SessionDescription.parse(sdp)
    except Exception as error:  # the parser raises whatever the first line that it cannot read makes it raise
        raise Refused(400, "malformed_sdp", f"the offer is not SDP: {type(error).__name__} while reading it") from None
    kinds = [media.kind for media in description.media]
    if kinds.count("audio") != 1:
        found = "no audio line" if "audio" not in kinds else f"{kinds.count('audio')} audio lines"
        raise Refused(400, "no_audio" if "audio" not in kinds else "too_many_lines", f"the offer has {found}; add one")
    if set(kinds) - {"audio", "application"} or kinds.count("application") > 1:
        raise Refused(
            400, "too_many_lines", "the offer has more than one audio line and one data channel; drop the rest"
        )
    audio = description.media[kinds.index("audio")]
    if not any(codec.mimeType.lower() == "audio/opus" for codec in audio.rtp.codecs):
        raise Refused(400, "no_opus", "the offer's audio line has no Opus; every WebRTC client can speak it")
    for media in description.media:
        if not (media.ice and media.ice.usernameFragment and media.ice.password):
            raise Refused(400, "malformed_sdp", f"the offer's {media.kind} line has no ICE user fragment and password")
        if not (media.dtls and media.dtls.fingerprints):
            raise Refused(400, "malformed_sdp", f"the offer's {media.kind} line has no DTLS fingerprint")
    assert audio.ice is not None
    return Offer(sdp, f"{audio.ice.usernameFragment}:{audio.ice.password}", "application" in kinds, session)


def _fields(content_type: str, body: bytes) -> dict[str, bytes]:
    message = message_from_bytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body, policy=HTTP)
    if not message.is_multipart():
        raise Refused(400, "malformed_form", "the multipart form cannot be read; check its boundary")
    fields: dict[str, bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content
    return fields


def _session(content: bytes) -> dict[str, Any]:
    try:
        session = from_json(content, allow_inf_nan=False)
    except ValueError:
        raise Refused(400, "malformed_session", "the form's field session is not JSON") from None
    if not isinstance(session, dict):
        raise Refused(400, "malformed_session", "the form's field session is not a JSON object")
    return session
