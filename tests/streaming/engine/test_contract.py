"""What every engine promises, the fake one and the real one alike."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.errors import AudioError, ConfigError, EngineError, EngineFullError
from speechgpt_gen.streaming.engine.batched import BatchedEngine
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.local import LocalEngine
from speechgpt_gen.streaming.engine.protocol import (
    Audio,
    Engine,
    EngineSession,
    Finished,
    Generation,
    Message,
    Output,
    Request,
    Text,
    Transcript,
    Word,
)

MAKERS: dict[str, Callable[[], Engine]] = {
    "fake": lambda: FakeEngine(words=4, slots=2),
    "local": lambda: LocalEngine(load_bundle("tiny"), slots=2),
    "batched": lambda: BatchedEngine(load_bundle("tiny"), slots=2, device="cpu", buckets=(2,)),
}
SAY = Request("say", "Hello there", seed=1, max_seconds=2.0)
REPLY = Request(seed=7, max_seconds=1.0)


@pytest.fixture(params=MAKERS)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = MAKERS[request.param]()
    await engine.start()
    yield engine
    await engine.stop()


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Something to hear."""
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000))).astype(np.float32)


async def collect(generation: Generation) -> list[Output]:
    return [output async for output in generation]


async def answer(engine: Engine, request: Request, *heard: NDArray[np.float32]) -> list[Output]:
    """What a fresh session answers."""
    session = await engine.open()
    session.begin_turn([])
    for pcm in heard:
        session.listen(pcm)
    outputs = await collect(session.generate(request))
    await session.close()
    return outputs


def sound(outputs: list[Output]) -> NDArray[np.float32]:
    pieces = [output.pcm for output in outputs if isinstance(output, Audio)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def words(outputs: list[Output]) -> list[tuple[str, int]]:
    return [(output.text, output.frame) for output in outputs if isinstance(output, Word)]


def text(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Text))


def end(outputs: list[Output]) -> Finished:
    assert isinstance(outputs[-1], Finished)
    assert sum(isinstance(output, Finished) for output in outputs) == 1
    return outputs[-1]


def assert_equal(first: list[Output], second: list[Output]) -> None:
    """The same outputs to the bit, but for the timings."""
    assert text(first) == text(second)
    assert words(first) == words(second)
    np.testing.assert_array_equal(sound(first), sound(second))
    assert (end(first).reason, end(first).units) == (end(second).reason, end(second).units)


async def test_what_is_said_comes_in_order(engine: Engine) -> None:
    outputs = await answer(engine, SAY)
    finished = end(outputs)
    assert finished.reason in ("completed", "length")
    assert finished.error is None
    assert text(outputs) == "Hello there"
    spoken = words(outputs)
    assert [word for word, _ in spoken] == ["Hello", "there"][: len(spoken)]
    assert spoken[0] == ("Hello", 0)
    frame = 0
    for output in outputs:
        if isinstance(output, Audio):
            assert output.start_frame == frame
            assert output.pcm.dtype == np.float32
            assert len(output.pcm) == 320 * (output.end_frame - output.start_frame) > 0
            assert np.abs(output.pcm).max() <= 1.0
            frame = output.end_frame
    assert finished.units == frame > 0
    assert finished.seconds == pytest.approx(frame * 0.02)
    assert all(start <= frame for _, start in spoken)
    assert {"first_token", "first_unit", "first_block", "first_audio", "total"} <= set(finished.timings)
    assert all(0 <= value <= finished.timings["total"] for value in finished.timings.values())


async def test_a_reply_tells_what_was_heard_first(engine: Engine) -> None:
    outputs = await answer(engine, REPLY, noise(0.5))
    assert isinstance(outputs[0], Transcript)
    assert outputs[0].final
    assert sum(isinstance(output, Transcript) and output.final for output in outputs) == 1
    assert text(outputs)
    assert end(outputs).reason in ("completed", "length")


async def test_transcribe_speaks_nothing(engine: Engine) -> None:
    outputs = await answer(engine, Request("transcribe", seed=1), noise(1.0))
    assert [type(output) for output in outputs] == [Transcript, Finished]
    assert end(outputs).reason == "completed"


async def test_a_typed_message_needs_no_audio(engine: Engine) -> None:
    outputs = await answer(engine, Request("reply", "What is this?", seed=3, max_seconds=0.5))
    assert not any(isinstance(output, Transcript) for output in outputs)
    assert text(outputs)
    assert len(sound(outputs)) > 0


async def test_a_message_in_the_history_is_answered(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "What is this?")])
    outputs = await collect(session.generate(Request(seed=3, max_seconds=0.5)))
    assert text(outputs)
    assert len(sound(outputs)) > 0


async def test_without_speech_only_text_comes(engine: Engine) -> None:
    outputs = await answer(engine, Request("reply", "What is this?", speak=False, seed=3))
    assert {type(output) for output in outputs} == {Text, Finished}
    assert end(outputs).units == 0


async def test_direct_mode_speaks(engine: Engine) -> None:
    outputs = await answer(engine, Request(mode="direct", seed=5, max_seconds=0.6), noise(0.3))
    assert end(outputs).reason in ("completed", "length")
    assert text(outputs).split() == [word for word, _ in words(outputs)]


async def test_an_answer_ends_at_its_longest(engine: Engine) -> None:
    outputs = await answer(engine, Request("say", "one two three four five six", seed=2, max_seconds=0.2))
    assert end(outputs).reason == "length"
    assert len(sound(outputs)) == 10 * 320


async def test_a_seed_gives_the_same_answer_however_the_audio_comes(engine: Engine) -> None:
    pcm = noise(0.7)
    whole = await answer(engine, REPLY, pcm)
    assert_equal(whole, await answer(engine, REPLY, pcm))
    assert_equal(whole, await answer(engine, REPLY, pcm[:1], pcm[1:700], pcm[700:9_000], pcm[9_000:]))


async def test_two_sessions_at_once_answer_as_one_at_a_time(engine: Engine) -> None:
    alone = [await answer(engine, REPLY, noise(0.4, 1)), await answer(engine, SAY)]
    together = await asyncio.gather(answer(engine, REPLY, noise(0.4, 1)), answer(engine, SAY))
    for first, second in zip(alone, together, strict=True):
        assert_equal(first, second)


async def test_cancel_ends_an_answer_at_once(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    generation = session.generate(SAY)
    after: list[Output] | None = None
    async for output in generation:
        if after is not None:
            after.append(output)
        elif isinstance(output, Audio):
            generation.cancel()
            generation.cancel()
            after = []
    assert after is not None
    assert [type(output) for output in after] == [Finished]
    assert end(after).reason == "cancelled"
    assert end(after).units > 0


async def test_cancel_before_the_first_output_and_from_another_thread(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    generation = session.generate(SAY)
    generation.cancel()
    outputs = await collect(generation)
    assert [type(output) for output in outputs] == [Finished]
    assert end(outputs).reason == "cancelled"

    generation = session.generate(SAY)
    thread = threading.Thread(target=generation.cancel)
    thread.start()
    thread.join()
    assert end(await collect(generation)).reason == "cancelled"


async def test_cancelling_what_has_finished_changes_nothing(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    generation = session.generate(SAY)
    assert end(await collect(generation)).reason != "cancelled"
    generation.cancel()
    assert end(await collect(session.generate(SAY))).reason != "cancelled"


@pytest.mark.parametrize("taken", [0, 1, 3])
async def test_a_turn_goes_on_after_a_cancelled_answer(engine: Engine, taken: int) -> None:
    """Preemptive generation: the answer began at a soft end, but the user went on speaking."""
    pcm = noise(0.9)
    session = await engine.open()
    session.begin_turn([])
    session.listen(pcm[:6_000])
    early = session.generate(REPLY)
    outputs = 0
    if taken:
        async for _ in early:
            outputs += 1
            if outputs == taken:
                break
    session.listen(pcm[6_000:9_000])
    early.cancel()
    session.listen(pcm[9_000:])
    late = await collect(session.generate(REPLY))
    assert_equal(late, await answer(engine, REPLY, pcm))


async def test_a_finished_answer_does_not_use_up_the_turn(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    session.listen(noise(0.5))
    first = await collect(session.generate(REPLY))
    assert_equal(first, await collect(session.generate(REPLY)))


async def test_a_new_turn_forgets_the_last_one(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    session.listen(noise(1.0, 3))
    running = session.generate(REPLY)
    session.begin_turn([])
    assert session.heard == ""
    session.listen(noise(0.5))
    assert end(await collect(running)).reason == "cancelled"
    assert_equal(await collect(session.generate(REPLY)), await answer(engine, REPLY, noise(0.5)))


async def test_a_second_answer_cancels_the_first(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    first = session.generate(SAY)
    second = session.generate(SAY)
    assert end(await collect(first)).reason == "cancelled"
    assert end(await collect(second)).reason != "cancelled"
    assert second.id > first.id


async def test_slots_are_refused_when_taken_and_free_at_once_when_closed(engine: Engine) -> None:
    sessions = [await engine.open() for _ in range(engine.info.slots)]
    assert engine.in_use == engine.info.slots
    with pytest.raises(EngineFullError, match="slots are taken"):
        await engine.open()
    sessions[0].begin_turn([])
    running = sessions[0].generate(SAY)
    await sessions[0].close()
    await sessions[0].close()
    assert engine.in_use == engine.info.slots - 1
    assert end(await collect(running)).reason == "cancelled"
    another = await engine.open()
    another.begin_turn([])
    assert end(await collect(another.generate(SAY))).reason != "cancelled"
    for use in (
        lambda: sessions[0].listen(noise(0.1)),
        lambda: sessions[0].begin_turn([]),
        lambda: sessions[0].generate(SAY),
    ):
        with pytest.raises(EngineError, match="closed"):
            use()


@pytest.mark.parametrize("request_", [Request(), Request("say", " ... !"), Request("say", None)])
async def test_what_cannot_be_answered_fails_in_one_line_and_alone(engine: Engine, request_: Request) -> None:
    good = await answer(engine, SAY)
    bad: EngineSession = await engine.open()
    bad.begin_turn([])
    together = await asyncio.gather(answer(engine, SAY), collect(bad.generate(request_)))
    assert_equal(together[0], good)
    finished = end(together[1])
    assert finished.reason == "failed"
    assert finished.error
    assert "\n" not in finished.error
    assert end(await collect(bad.generate(SAY))).reason != "failed"


async def test_voices_are_names_or_recordings(engine: Engine) -> None:
    session = await engine.open(voice=engine.info.voices[-1])
    with pytest.raises(ConfigError, match="unknown voice 'nobody'"):
        session.set_voice("nobody")
    with pytest.raises(ConfigError, match="unknown voice 'nobody'"):
        await engine.open(voice="nobody")
    assert engine.in_use == 1
    voice = await engine.make_voice(noise(1.0), "me")
    assert voice.name == "me"
    assert voice.units.shape[0] == voice.latents.shape[0] > 0
    session.set_voice(voice)
    session.begin_turn([])
    assert len(sound(await collect(session.generate(SAY)))) > 0
    for useless in (noise(0.1), np.zeros(0, np.float32), np.full(16_000, np.nan, np.float32)):
        with pytest.raises(AudioError, match="'me'"):
            await engine.make_voice(useless, "me")


async def test_broken_audio_is_refused(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    with pytest.raises(AudioError, match="NaN"):
        session.listen(np.full(320, np.nan, np.float32))


async def test_stop_ends_every_session(engine: Engine) -> None:
    session = await engine.open()
    session.begin_turn([])
    running = session.generate(SAY)
    await engine.stop()
    assert end(await collect(running)).reason == "cancelled"
    assert engine.in_use == 0


async def test_a_recording_is_spoken_again_frame_by_frame(engine: Engine) -> None:
    heard = noise(1.11)
    outputs = await answer(engine, Request("convert", seed=3), heard[:5000], heard[5000:])
    assert end(outputs).reason == "completed"
    assert end(outputs).units == -(-len(heard) // 320)
    assert len(sound(outputs)) == 320 * end(outputs).units
    assert {type(output) for output in outputs} == {Audio, Finished}
    assert_equal(outputs, await answer(engine, Request("convert", seed=3), heard))


async def test_nothing_heard_is_nothing_to_convert(engine: Engine) -> None:
    finished = end(await answer(engine, Request("convert")))
    assert finished.reason == "failed"
    assert "nothing to convert" in (finished.error or "")
