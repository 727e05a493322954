"""Who gets a thread when several want it: first blocks before later ones, slots in turn."""

import asyncio
import threading

import pytest

from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.generation import Speaker
from speechgpt_gen.streaming.engine.generation import LocalGeneration
from speechgpt_gen.streaming.engine.local import LocalEngine
from speechgpt_gen.streaming.engine.one_at_a_time import OneAtATime
from speechgpt_gen.streaming.engine.protocol import Audio, Finished, Request, Text, Transcript, Word
from speechgpt_gen.streaming.engine.slots import Answer, SpeechJob
from speechgpt_gen.streaming.engine.speaking import SpeakingThread


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("tiny")


async def test_a_first_block_goes_ahead_of_later_blocks_and_an_answer_keeps_its_order(bundle: Bundle) -> None:
    order: list[tuple[int, object]] = []

    class Noted(LocalGeneration):
        def put(self, output: Audio | Text | Word | Transcript | Finished) -> None:
            assert isinstance(output, Audio)
            order.append((self.id, output.start_frame))

        def finish(self, reason: object, error: str | None = None) -> None:
            order.append((self.id, reason))
            done.set()

    done = threading.Event()
    old, new = (
        Answer(Noted(number, Request(), lambda: 0.0, lambda: None), bundle.voice(None), seed=0) for number in (1, 2)
    )
    thread = SpeakingThread(Speaker(bundle), OneAtATime())
    for index in range(3):
        thread.speak(SpeechJob(old, (1, 2, 3), index))
    thread.speak(SpeechJob(new, (), 0))
    thread.speak(SpeechJob(new, (1, 2), 0))
    thread.speak(SpeechJob(new, (1, 2), 1))
    thread.speak(SpeechJob(old, None, 3))
    thread.start()
    await asyncio.to_thread(done.wait, 30)
    thread.stop()
    assert order == [(1, 0), (2, 0), (1, 3), (1, 6), (2, 2), (1, "completed")]


async def test_slots_take_turns(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long answers side by side: neither is kept waiting until the other is done."""
    order: list[int] = []
    put = LocalGeneration.put

    def noted(generation: LocalGeneration, output: Audio | Text | Word | Transcript | Finished) -> None:
        if isinstance(output, Audio):
            order.append(generation.id)
        put(generation, output)

    monkeypatch.setattr(LocalGeneration, "put", noted)
    engine = LocalEngine(bundle, slots=2)
    await engine.start()
    words = "one two three four five six seven eight nine ten"

    async def listen(number: int) -> int:
        session = await engine.open()
        session.begin_turn([])
        generation = session.generate(Request("say", words, seed=number, max_seconds=6))
        async for _ in generation:
            pass
        return generation.id

    ids = await asyncio.gather(listen(0), listen(1))
    await engine.stop()
    for own, other in (ids, ids[::-1]):
        first, last = order.index(own), len(order) - 1 - order[::-1].index(own)
        assert other in order[first:last]


async def test_jobs_of_others_run_between_blocks_and_errors_come_back(bundle: Bundle) -> None:
    thread = SpeakingThread(Speaker(bundle), OneAtATime())
    thread.start()
    assert await asyncio.wrap_future(thread.call(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        await asyncio.wrap_future(thread.call(lambda: 1 // 0))
    assert await asyncio.wrap_future(thread.call(lambda: 8)) == 8
    thread.stop()
