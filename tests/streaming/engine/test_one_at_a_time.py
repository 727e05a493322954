"""The engine's threads compute one at a time, and sound goes before words."""

import asyncio
import threading

import pytest

from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.generation import Utterance
from speechgpt_gen.models.semantic.decoder import LocalDecoder
from speechgpt_gen.streaming.engine.local import LocalEngine
from speechgpt_gen.streaming.engine.one_at_a_time import OneAtATime
from speechgpt_gen.streaming.engine.protocol import Audio, Request


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("tiny")


def test_sound_goes_before_words_that_wait_longer() -> None:
    turns, order = OneAtATime(), list[str]()

    def words() -> None:
        with turns.words():
            order.append("words")

    def sound() -> None:
        with turns.sound():
            order.append("sound")

    threads = [threading.Thread(target=each) for each in (words, words, sound)]
    with turns.words():
        for thread in threads:
            thread.start()
        while not turns._sounds:
            pass
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["sound", "words", "words"]


def test_who_fails_lets_the_other_go_on() -> None:
    turns = OneAtATime()
    for turn in (turns.sound, turns.words):
        with pytest.raises(KeyError), turn():
            raise KeyError
    with turns.words():
        pass


async def test_an_answer_is_thought_and_spoken_in_turns(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    computing: set[str] = set()
    met: list[set[str]] = []
    waits = threading.Event()

    def alone(name: str, function):  # type: ignore[no-untyped-def]
        def run(*arguments):  # type: ignore[no-untyped-def]
            computing.add(name)
            met.append(set(computing))
            waits.wait(0.001)  # lets the other thread in, if it may
            made = function(*arguments)
            computing.discard(name)
            return made

        return run

    monkeypatch.setattr(LocalDecoder, "_states", alone("words", LocalDecoder._states))
    monkeypatch.setattr(Utterance, "speak", alone("sound", Utterance.speak))
    engine = LocalEngine(bundle, slots=2)
    await engine.start()
    try:
        sessions = [await engine.open() for _ in range(2)]

        async def say(number: int) -> int:
            sessions[number].begin_turn([])
            request = Request("say", "one two three four", seed=number, max_seconds=2.0)
            return sum([isinstance(output, Audio) async for output in sessions[number].generate(request)])

        blocks = await asyncio.gather(say(0), say(1))
    finally:
        await engine.stop()
    assert min(blocks) > 1
    assert {"words"} in met
    assert {"sound"} in met
    assert all(len(each) == 1 for each in met)
