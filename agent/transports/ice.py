"""Which network addresses a call may use, and which servers help it through a NAT."""

import asyncio
from typing import Any

import aioice
import aioice.ice
import aioice.stun
from aiortc import RTCIceServer, RTCIceTransport

from ..settings import Settings


def ice_servers(settings: Settings) -> list[RTCIceServer]:
    """STUN and TURN servers of the settings; none by default, aiortc's own default would ask a public server."""
    password = settings.turn_password.get_secret_value() if settings.turn_password is not None else None
    servers = [RTCIceServer(urls=url) for url in settings.stun]
    servers += [RTCIceServer(urls=url, username=settings.turn_username, credential=password) for url in settings.turn]
    return servers


def host_addresses(*, loopback: bool) -> list[str]:
    """All addresses of this machine, 127.0.0.1 before them if `loopback` or if there is no other.

    aioice leaves loopback out, so that a machine without a network could not call itself. The other addresses are
    offered beside it because Firefox pairs its own only with addresses that are not loopback.
    """
    addresses = aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True)
    return ["127.0.0.1", *addresses] if loopback or not addresses else addresses


def choose_addresses(transport: RTCIceTransport, addresses: list[str]) -> None:
    """Gather on `addresses`, whatever interfaces aioice would take, and give a dead STUN server 2 s instead of 5.

    Cause: aioice 0.13 has no choice of interfaces. Remove when it has.
    """
    connection = transport.iceGatherer._connection
    gather = connection.get_component_candidates

    async def gather_ours(component: int, **_: Any) -> list[aioice.Candidate]:
        return await gather(component=component, addresses=addresses, timeout=2)

    connection.get_component_candidates = gather_ours  # type: ignore[method-assign, assignment]


async def is_alive(transport: RTCIceTransport) -> bool:
    """Whether the peer answers a STUN check within a second, as every WebRTC peer does while it lives.

    aioice asks too, but takes half a minute to believe in a death.
    """
    connection = transport.iceGatherer._connection
    pair = next(iter(connection._nominated.values()), None)
    if pair is None or connection.remote_password is None:
        return False
    key = connection.remote_password.encode()
    request = connection.build_request(pair, nominate=False)
    try:
        async with asyncio.timeout(1.0):
            await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=1)
    except (aioice.stun.TransactionError, TimeoutError, ConnectionError):
        return False
    return True
