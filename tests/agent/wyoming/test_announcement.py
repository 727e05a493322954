"""The announcement on the network, found as Home Assistant finds it."""

import asyncio

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from speechgpt_gen.agent.wyoming.announcement import SERVICE


async def test_home_assistant_finds_the_door(serve):
    try:
        finder = AsyncZeroconf(interfaces=["127.0.0.1"])
    except OSError as error:
        pytest.skip(f"this machine takes no multicast on loopback: {error}")
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
