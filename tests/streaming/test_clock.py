"""Virtual time: exact, ordered, and loud when it would stand still for ever."""

import asyncio

import pytest

from speechgpt_gen.streaming.clock import RealClock, VirtualClock


async def test_time_moves_only_when_told() -> None:
    clock = VirtualClock(start=10)
    seen: list[tuple[str, float]] = []

    async def worker(name: str, period: float) -> None:
        for _ in range(3):
            await clock.sleep(period)
            seen.append((name, clock.now()))

    tasks = [asyncio.create_task(worker("slow", 2)), asyncio.create_task(worker("quick", 1))]
    await clock.settle()
    assert (clock.now(), seen) == (10, [])
    await clock.advance(2.5)
    assert clock.now() == 12.5
    assert seen == [("quick", 11), ("slow", 12), ("quick", 12)]
    await clock.advance(10)
    assert seen[3:] == [("quick", 13), ("slow", 14), ("slow", 16)]
    assert clock.now() == 22.5
    await asyncio.gather(*tasks)


async def test_one_wake_up_is_worked_off_before_the_next() -> None:
    clock = VirtualClock()
    seen: list[str] = []
    doorbell = asyncio.Event()

    async def ringer() -> None:
        await clock.sleep(1)
        doorbell.set()

    async def opener() -> None:
        await doorbell.wait()
        await asyncio.sleep(0)
        seen.append("opened")

    async def passer() -> None:
        await clock.sleep(1)
        seen.append("passed")

    tasks = [asyncio.create_task(job()) for job in (ringer, opener, passer)]
    await clock.advance(1)
    assert seen == ["opened", "passed"]
    await asyncio.gather(*tasks)


async def test_run_jumps_from_deadline_to_deadline() -> None:
    clock = VirtualClock()

    async def work() -> str:
        await clock.sleep(0)
        await clock.sleep(1800)
        await clock.sleep(0.25)
        return "done"

    assert await clock.run(work()) == "done"
    assert clock.now() == 1800.25


async def test_run_passes_errors_on() -> None:
    clock = VirtualClock()

    async def work() -> None:
        await clock.sleep(1)
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await clock.run(work())


async def test_run_notices_what_would_never_end() -> None:
    clock = VirtualClock()
    forever = asyncio.Event()
    with pytest.raises(RuntimeError, match="wait for ever"):
        await clock.run(forever.wait())
    with pytest.raises(TimeoutError, match=r"5 s"):
        await clock.run(clock.sleep(6), limit=5)
    assert clock.now() == 0


async def test_a_busy_task_is_named_as_such() -> None:
    clock = VirtualClock()

    async def busy() -> None:
        while True:  # noqa: ASYNC110 - the mistake that is to be found
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    with pytest.raises(RuntimeError, match="never waits"):
        await clock.advance(1)
    task.cancel()


async def test_a_cancelled_sleeper_does_not_hold_up_time() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.settle()
    task.cancel()
    await clock.run(clock.sleep(3))
    assert clock.now() == 3
    assert task.cancelled()


async def test_real_time_moves_on() -> None:
    clock = RealClock()
    before = clock.now()
    await clock.sleep(0.002)
    await clock.sleep(-1)
    assert clock.now() >= before + 0.002
