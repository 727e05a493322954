"""Callers that vanish without a good-bye leave nothing behind."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
from pathlib import Path

import pytest
import uvicorn

from speechgpt_gen.agent.app import create_app
from speechgpt_gen.agent.settings import load_settings
from speechgpt_gen.streaming.clock import RealClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

AT_ONCE = 10
CALLERS = 100
MEMORY = 5 * 2**20


def memory() -> int:
    """Bytes of this process in memory, after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def udp_ports() -> int:
    """UDP sockets that this process holds."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("udp", "udp6")]
    inodes = {f"socket:[{line.split()[9]}]" for table in tables for line in table}
    held = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            held += str(descriptor.readlink()) in inodes
        except FileNotFoundError:
            continue
    return held


def threads() -> list[str]:
    """Threads but for those of asyncio's pool, which come with the work and stay, six on two cores."""
    return sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_"))


def tasks() -> list[str]:
    return sorted(task.get_name() for task in asyncio.all_tasks() if not task.get_name().startswith("Task-"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts what Linux tells in /proc")
async def test_a_hundred_callers_that_vanish_leave_nothing() -> None:
    engine = FakeEngine(words=60, slots=AT_ONCE, clock=RealClock(), pace=0.5)
    app = create_app(engine, load_settings(vad="webrtc", peer_timeout_s=1.0))
    config = uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    connected: list[int] = []

    async def vanish() -> None:
        script = str(Path(__file__).parent / "vanish.py")
        command = (sys.executable, script, url, str(AT_ONCE))
        caller = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await caller.communicate()
        connected.append(int(out))
        async with asyncio.timeout(60):
            while engine.in_use or len(app.state.server.calls):  # noqa: ASYNC110 - what ends has no event here
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)  # sockets close behind the calls, and what they leave is collected

    try:
        for _ in range(3):
            await vanish()  # what is loaded and set up once
        before = (len(asyncio.all_tasks()), tasks(), threads(), udp_ports())
        at_first = memory()
        for _ in range(CALLERS // AT_ONCE):
            await vanish()
        assert (len(asyncio.all_tasks()), tasks(), threads(), udp_ports()) == before
        grown = memory() - at_first
        print(f"{sum(connected)} callers; memory grew by {grown / 2**20:.1f} MiB; tasks, threads, UDP ports: {before}")
        assert sum(connected) > CALLERS / 2
        assert grown < MEMORY
    finally:
        server.should_exit = True
        await running
