"""What POST /v1/realtime/calls refuses, and what it lets through."""

import json

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from starlette.requests import Request

from speechgpt_gen.agent.refusals import Refused
from speechgpt_gen.agent.transports.offer import check_offer, read_offer


async def make_offer(*, audio: int = 1, video: bool = False, events: bool = True) -> str:
    """An offer of aiortc, without candidates."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for _ in range(audio):
        peer.addTransceiver("audio")
    if video:
        peer.addTransceiver("video")
    if events:
        peer.createDataChannel("oai-events")
    sdp: str = (await peer.createOffer()).sdp
    await peer.close()
    return sdp


def request(body: bytes, content_type: str | None) -> Request:
    headers = [(b"content-type", content_type.encode())] if content_type is not None else []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


async def refusal(body: bytes, content_type: str | None = "application/sdp", max_bytes: int = 100_000) -> Refused:
    with pytest.raises(Refused) as caught:
        await read_offer(request(body, content_type), max_bytes=max_bytes)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_a_plain_offer_passes() -> None:
    offer = await read_offer(
        request((await make_offer()).encode(), "application/sdp; charset=utf-8"), max_bytes=100_000
    )
    assert offer.events
    assert offer.session is None
    assert not (
        await read_offer(request((await make_offer(events=False)).encode(), "application/sdp"), max_bytes=9999)
    ).events


async def test_a_form_brings_a_session() -> None:
    sdp = await make_offer()
    session = {"type": "realtime", "instructions": "Be brief."}
    body = (
        '--b\r\nContent-Disposition: form-data; name="sdp"\r\nContent-Type: application/sdp\r\n\r\n'
        f'{sdp}\r\n--b\r\nContent-Disposition: form-data; name="session"\r\n\r\n{json.dumps(session)}\r\n--b--\r\n'
    ).encode()
    offer = await read_offer(request(body, "multipart/form-data; boundary=b"), max_bytes=100_000)
    assert offer.session == session
    assert offer.key == check_offer(sdp).key
    broken = body.replace(b'{"type"', b'{"type')
    assert (await refusal(broken, "multipart/form-data; boundary=b")).code == "malformed_session"
    assert (
        await refusal(body.replace(b'name="sdp"', b'name="other"'), "multipart/form-data; boundary=b")
    ).code == "missing_sdp"
    assert (await refusal(body, "multipart/form-data")).code == "malformed_form"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"v=0", "text/plain", 415, "unsupported_media_type"),
        (b"v=0", None, 415, "unsupported_media_type"),
        (b"", "application/sdp", 400, "missing_sdp"),
        (b"\xff\xfe\x00", "application/sdp", 400, "malformed_sdp"),
        (b"hello", "application/sdp", 400, "no_audio"),
        (b"v=0\r\nm=audio\r\n", "application/sdp", 400, "malformed_sdp"),
        (b"x" * 100_001, "application/sdp", 413, "too_large"),
    ],
)
async def test_bad_bodies_are_refused(body: bytes, content_type: str | None, status: int, code: str) -> None:
    error = await refusal(body, content_type)
    assert (error.status, error.code) == (status, code)


async def test_lines_that_cannot_be_answered_are_refused() -> None:
    assert (await refusal((await make_offer(audio=0)).encode())).code == "no_audio"
    assert (await refusal((await make_offer(audio=2)).encode())).code == "too_many_lines"
    assert (await refusal((await make_offer(video=True)).encode())).code == "too_many_lines"
    good = await make_offer()
    assert (await refusal(good.replace("opus", "speex").encode())).code == "no_opus"
    for needed in ("a=ice-pwd", "a=fingerprint"):
        without = "".join(line + "\r\n" for line in good.splitlines() if not line.startswith(needed))
        assert (await refusal(without.encode())).code == "malformed_sdp"


async def test_hidden_addresses_are_left_out() -> None:
    sdp = await make_offer()
    hidden = "a=candidate:1 1 udp 2113937151 5f1d0c1e-1d1f-4b57-8a55-6a9e1c0b5d3f.local 50000 typ host\r\n"
    shown = "a=candidate:2 1 udp 2113937150 192.0.2.7 50000 typ host\r\n"
    offer = check_offer(sdp.replace("a=mid:0\r\n", "a=mid:0\r\n" + hidden + shown))
    assert ".local" not in offer.sdp
    assert shown in offer.sdp
