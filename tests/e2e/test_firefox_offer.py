"""An offer as Firefox makes it: mDNS names that may not resolve, and the list of them ended."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection


async def test_a_firefox_offer_is_answered_with_candidates(serve: Callable[..., Any]) -> None:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.createDataChannel("oai-events")
    peer.addTransceiver("audio")
    await peer.setLocalDescription(await peer.createOffer())
    offer = re.sub(r"a=(?:candidate:.*|end-of-candidates)\r\n", "", peer.localDescription.sdp)
    hidden = "a=candidate:0 1 UDP 2122187007 1d3f6f82-a4b7-4f30-a1a1-750d0ed731b0.local 34522 typ host\r\n"
    offer = re.sub(r"(m=.*\r\nc=.*\r\n)", rf"\1{hidden}a=end-of-candidates\r\n", offer)
    await peer.close()
    answer = await asyncio.to_thread(post, serve().url + "v1/realtime/calls", offer)
    assert re.search(r"^a=candidate:.* typ host", answer, re.MULTILINE)


def post(url: str, offer: str) -> str:
    request = urllib.request.Request(url, offer.encode(), {"Content-Type": "application/sdp"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())
