"""What only the real engine has: pacing, its two threads, precision, and what happens when numbers break."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.errors import ConfigError, EngineError, ModelNotFoundError
from speechgpt_gen.models.facade import SpeechGPTGen
from speechgpt_gen.models.semantic import grammar as semantic
from speechgpt_gen.models.semantic.grammar import DecodingLimits
from speechgpt_gen.streaming.engine.bench import measure
from speechgpt_gen.streaming.engine.local import LocalEngine
from speechgpt_gen.streaming.engine.protocol import Audio, Finished, Message, Output, Request, Text, Transcript, Voice

LONG = Request("say", "one two three four five six seven eight nine ten " * 4, seed=1, max_seconds=8.0)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("tiny")


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000))).astype(np.float32)


def sound(outputs: list[Output]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *(o.pcm for o in outputs if isinstance(o, Audio))])


def end(outputs: list[Output]) -> Finished:
    assert isinstance(outputs[-1], Finished)
    return outputs[-1]


async def run(engine: LocalEngine, request: Request, *heard: NDArray[np.float32]) -> list[Output]:
    session = await engine.open()
    session.begin_turn([])
    for pcm in heard:
        session.listen(pcm)
    outputs = [output async for output in session.generate(request)]
    await session.close()
    return outputs


async def test_the_engine_and_the_facade_give_the_same_sound(bundle: Bundle) -> None:
    model = SpeechGPTGen(load_bundle("tiny"))
    engine = LocalEngine(bundle, slots=1)
    await engine.start()
    said = await run(engine, Request("say", "Hello there.", seed=3, max_seconds=2))
    np.testing.assert_array_equal(sound(said), model.say("Hello there.", seed=3, max_seconds=2).pcm)
    replied = await run(engine, Request(seed=3, max_seconds=1), noise(0.6))
    whole = model.reply((noise(0.6), 16_000), seed=3, max_seconds=1)
    np.testing.assert_array_equal(sound(replied), whole.pcm)
    assert [output.text for output in replied if isinstance(output, Transcript)] == [whole.transcript]
    await engine.stop()


async def test_an_answer_is_not_generated_far_ahead_of_its_listener(bundle: Bundle) -> None:
    time = 0.0
    engine = LocalEngine(bundle, slots=1, now=lambda: time)
    await engine.start()
    unpaced = await run(engine, replace(LONG, max_ahead_seconds=None))
    assert end(unpaced).seconds > 4
    session = await engine.open()
    session.begin_turn([])
    generation = session.generate(replace(LONG, max_ahead_seconds=1.0))
    outputs: list[Output] = []
    audible = asyncio.Event()

    async def listen() -> None:
        async for output in generation:
            outputs.append(output)
            if isinstance(output, Audio):
                audible.set()

    listener = asyncio.create_task(listen())
    await audible.wait()
    seen = -1
    while len(outputs) > seen:  # time stands still: wait until nothing comes any more
        seen = len(outputs)
        await asyncio.sleep(0.3)
    assert 0 < len(sound(outputs)) <= 16_000 * 1.3
    time = 100.0
    await listener
    np.testing.assert_array_equal(sound(outputs), sound(unpaced))
    await engine.stop()


async def test_what_is_heard_appears_while_one_listens(bundle: Bundle) -> None:
    engine = LocalEngine(bundle, slots=1)
    await engine.start()
    model = SpeechGPTGen(load_bundle("tiny"))
    seed = next(seed for seed in range(50) if model.transcribe((noise(2.0, seed), 16_000)))
    session = await engine.open()
    session.begin_turn([])
    session.listen(noise(2.0, seed))
    outputs = [output async for output in session.generate(Request("transcribe"))]
    final = outputs[0]
    assert isinstance(final, Transcript)
    assert final.text == model.transcribe((noise(2.0, seed), 16_000))
    await engine.stop()


async def test_a_broken_voice_fails_its_own_conversation_only(bundle: Bundle) -> None:
    engine = LocalEngine(bundle, slots=2)
    await engine.start()
    request = Request("say", "Hello there.", seed=3, max_seconds=1)
    good = await run(engine, request)
    first = bundle.voice("first")
    bad = await engine.open(voice=Voice("bad", first.units, torch.full_like(first.latents, torch.nan)))
    bad.begin_turn([])

    async def spoilt() -> list[Output]:
        return [output async for output in bad.generate(request)]

    together, failed = await asyncio.gather(run(engine, request), spoilt())
    assert end(failed).reason == "failed"
    assert "not finite" in (end(failed).error or "")
    np.testing.assert_array_equal(sound(together), sound(good))
    bad.set_voice("first")
    np.testing.assert_array_equal(sound(await spoilt()), sound(good))
    await engine.stop()


async def test_an_error_nobody_foresaw_ends_one_turn_in_one_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LocalEngine(bundle, slots=1)
    await engine.start()
    request = Request("say", "Hello there.", seed=3, max_seconds=1)
    good = await run(engine, request)
    session = await engine.open()
    session.begin_turn([])
    with monkeypatch.context() as patch:
        patch.setattr(bundle.tokenizer, "hear_chunk", lambda *_, **__: 1 / 0)
        session.listen(noise(1.0))
        failed = [output async for output in session.generate(Request(seed=1))]
    assert end(failed).reason == "failed"
    assert end(failed).error == "internal error: ZeroDivisionError: division by zero"
    session.begin_turn([Message("user", "Hi."), Message("assistant", "Hello.")])
    outputs = [output async for output in session.generate(request)]
    np.testing.assert_array_equal(sound(outputs), sound(good))
    await engine.stop()


async def test_a_turn_that_is_too_long_fails_and_the_next_does_not(bundle: Bundle) -> None:
    engine = LocalEngine(bundle, slots=1)
    await engine.start()
    session = await engine.open()
    session.begin_turn([])
    session.listen(noise(60))
    outputs = [output async for output in session.generate(Request(seed=1))]
    assert end(outputs).reason == "failed"
    assert "speak in shorter turns" in (end(outputs).error or "")
    session.begin_turn([])
    session.listen(noise(0.3))
    outputs = [output async for output in session.generate(Request(seed=1, max_seconds=0.3))]
    assert end(outputs).reason in ("completed", "length")
    await engine.stop()


async def test_broken_weights_fail_at_the_start() -> None:
    broken = load_bundle("tiny")
    broken.perceptual.out_proj.bias.data.fill_(torch.nan)
    with pytest.raises(EngineError, match=r"warm-up failed: .*not finite"):
        await LocalEngine(broken).start()
    with pytest.raises(ModelNotFoundError, match="no model 'nowhere'"):
        await LocalEngine("nowhere").start()
    with pytest.raises(ConfigError, match="0 slots"):
        LocalEngine("tiny", slots=0)


async def test_an_engine_that_is_not_running_says_so(bundle: Bundle) -> None:
    engine = LocalEngine(bundle)
    with pytest.raises(EngineError, match="not running"):
        await engine.open()
    await engine.start()
    await engine.start()
    await engine.stop()
    await engine.stop()
    with pytest.raises(EngineError, match="not running"):
        await engine.open()


async def test_by_name_the_model_is_int8_on_the_cpu_and_repeats_itself() -> None:
    engine = LocalEngine("tiny", slots=2)
    await engine.start()
    assert engine.info.voices == ("first", "second")
    request = Request(seed=3, max_seconds=1)
    first, second = await asyncio.gather(run(engine, request, noise(0.7)), run(engine, request, noise(0.7)))
    np.testing.assert_array_equal(sound(first), sound(second))
    np.testing.assert_array_equal(sound(first), sound(await run(engine, request, *np.split(noise(0.7), [3_200]))))
    await engine.stop()


def test_the_benchmark_measures(bundle: Bundle) -> None:
    figures = measure(bundle, "Hello there.", turns=2)
    assert figures.model == "tiny"
    assert figures.speech_seconds > 0
    plain = figures.to_json()
    assert set(plain) >= {"semantic_ms_per_unit", "real_time_factor", "core_seconds_per_second", "first_audio_ms"}
    assert all(value > 0 for value in plain.values() if isinstance(value, float))


async def test_a_written_answer_that_the_model_does_not_end_says_so(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "DecodingLimits", lambda: DecodingLimits(text_tokens=5))
    engine = LocalEngine(bundle, slots=1)
    await engine.start()
    outputs = await run(engine, Request("reply", "What is this?", speak=False, seed=3))
    assert sum(isinstance(output, Text) for output in outputs) == 5
    assert end(outputs).reason == "length"
    await engine.stop()
