"""The doors beside HTTP open and close with the server."""

import asyncio
import socket

import pytest
from starlette.testclient import TestClient
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import Settings
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.engine.fake import FakeEngine


async def describe(port: int) -> str:
    async with AsyncTcpClient("127.0.0.1", port, read_timeout=60) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        return event.type if event else ""


def settled(client: TestClient) -> dict[str, str]:
    """What /readyz says once the server has started, well or badly."""
    while (ready := client.get("/readyz").json())["status"] == "starting":
        pass
    return ready


def test_wyoming_opens_with_the_server_and_closes_with_it():
    app = create_app(FakeEngine(), Settings(wyoming="tcp://127.0.0.1:0"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert settled(client)["status"] == "ready"
        (door,) = app.state.server.doors._doors
        port = door.port
        assert asyncio.run(describe(port)) == "info"
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(describe(port))


def test_a_door_that_cannot_open_fails_the_server_and_says_why():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = create_app(FakeEngine(), Settings(wyoming=f"tcp://127.0.0.1:{port}"))
        with TestClient(app, base_url="http://127.0.0.1") as client:
            ready = settled(client)
    assert ready["status"] == "failed"
    assert f"127.0.0.1:{port}" in ready["reason"]


def test_settings_that_cannot_work_are_told_before_anything_starts():
    with pytest.raises(ConfigError, match="tcp://host:port"):
        create_app(FakeEngine(), Settings(wyoming="here"))
    with pytest.raises(ConfigError, match="mqtt://host"):
        create_app(FakeEngine(), Settings(mqtt="here"))


def test_a_broker_that_is_not_there_does_not_hold_the_server_up():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = create_app(FakeEngine(), Settings(mqtt=f"mqtt://127.0.0.1:{port}"))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert settled(client)["status"] == "ready"
