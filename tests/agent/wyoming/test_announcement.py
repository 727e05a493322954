"""The announcement on the network, found as Home Assistant finds it."""

import asyncio
import socket

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from speechgpt_gen.agent.wyoming.announcement import SERVICE


def multicast_comes_back() -> bool:
    """Whether this machine carries multicast on loopback; many containers do not."""
    here = socket.inet_aton("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.settimeout(2.0)
        try:
            ear.bind(("", 0))
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + here)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            ear.sendto(b"?", ("224.0.0.251", ear.getsockname()[1]))
            return ear.recv(1) == b"?"
        except OSError:
            return False


async def test_home_assistant_finds_the_door(serve):
    if not multicast_comes_back():
        pytest.skip("this machine carries no multicast on loopback")
    finder = AsyncZeroconf(interfaces=["127.0.0.1"])
    service = await serve(wyoming_announce=True)
    announced = service.door._announcement._info
    try:
        found = AsyncServiceInfo(SERVICE, announced.name)
        async with asyncio.timeout(30):
            while not await found.async_request(finder.zeroconf, 3000):
                pass
        assert found.port == service.door.port
        assert found.parsed_addresses() == ["127.0.0.1"]
    finally:
        await finder.async_close()
