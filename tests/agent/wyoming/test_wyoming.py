"""The Wyoming door, asked by the protocol's own client as Home Assistant asks: a TCP connection for each request."""

import asyncio
import contextlib
import socket
from itertools import pairwise

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event, async_read_event, async_write_event
from wyoming.handle import Handled
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from speechgpt_gen.agent.speech import Phrases
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.streaming.clock import VirtualClock
from speechgpt_gen.streaming.engine.fake import FakeEngine
from speechgpt_gen.streaming.engine.tones import decode_words, word_tone
from speechgpt_gen.streaming.pcm import from_pcm16

FORMAT = {"rate": 16_000, "width": 2, "channels": 1}


def utterance(seconds: float, rate: int = 16_000, width: int = 2, channels: int = 1) -> list[Event]:
    """What Home Assistant sends for a spoken command: 1024 samples to a chunk."""
    form = {"rate": rate, "width": width, "channels": channels}
    chunk = AudioChunk(**form, audio=b"\x10" * (1024 * width * channels)).event()
    chunks = round(seconds * rate / 1024)
    return [
        Transcribe(language="en").event(),
        AudioStart(**form).event(),
        *[chunk] * chunks,
        AudioStop().event(),
    ]


def sound(events: list[Event]) -> np.ndarray:
    """The sound of the chunks among events."""
    chunks = [AudioChunk.from_event(event) for event in events if event.type == "audio-chunk"]
    assert {(chunk.rate, chunk.width, chunk.channels) for chunk in chunks} <= {(16_000, 2, 1)}
    return from_pcm16(b"".join(chunk.audio for chunk in chunks))


def types(events: list[Event]) -> list[str]:
    """Types of events, chunks once."""
    found: list[str] = []
    for event in events:
        if not (found and found[-1] == event.type and event.type.endswith("-chunk")):
            found.append(event.type)
    return found


async def test_it_describes_itself(serve):
    service = await serve()
    (event,) = await service.ask(Describe().event())
    info = Info.from_event(event)
    for programs in (info.asr, info.tts, info.handle):
        (program,) = programs
        assert program.installed
        assert program.description
        assert program.version
    assert info.asr[0].supports_transcript_streaming
    assert info.tts[0].supports_synthesize_streaming
    assert info.handle[0].supports_handled_streaming
    assert [voice.name for voice in info.tts[0].voices] == ["first", "second"]
    assert info.tts[0].voices[0].languages == ["en"]


async def test_ping_is_answered_with_its_text(serve):
    service = await serve()
    (event,) = await service.ask(Ping("still there?").event())
    assert Pong.from_event(event).text == "still there?"


async def test_speech_becomes_a_transcript_that_grows(serve):
    service = await serve(FakeEngine(transcript="turn the lights off please"))
    events = await service.ask(*utterance(1.5))
    assert types(events) == ["transcript-start", "transcript-chunk", "transcript-stop", "transcript"]
    assert Transcript.from_event(events[-1]).text == "turn the lights off please"
    pieces = [event.data["text"] for event in events if event.type == "transcript-chunk"]
    assert len(pieces) > 2
    assert "".join(pieces) == "turn the lights off please"
    assert service.engine.in_use == 0


@pytest.mark.parametrize(("rate", "width", "channels"), [(8_000, 1, 1), (48_000, 2, 2), (22_050, 4, 1), (44_100, 3, 2)])
async def test_any_format_is_converted_at_the_door(serve, rate, width, channels):
    heard = []
    engine = FakeEngine()

    class Ear(FakeEngine):
        async def open(self, *, voice=None):
            session = await super().open(voice=voice)
            listen = session.listen
            session.listen = lambda pcm: (heard.append(pcm), listen(pcm))[1]
            return session

    engine = Ear()
    service = await serve(engine)
    tone = np.concatenate([word_tone(7), word_tone(12)])
    at = np.linspace(0, len(tone) - 1, len(tone) * rate // 16_000)
    samples = np.interp(at, np.arange(len(tone)), tone)
    whole = np.repeat(np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i8")[:, None], channels, axis=1)
    data = whole.reshape(-1, 1).view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    form = {"rate": rate, "width": width, "channels": channels}
    # Chunks of 777 bytes cut samples in two: the door puts them together again.
    chunks = [AudioChunk(**form, audio=data[i : i + 777]).event() for i in range(0, len(data), 777)]
    events = await service.ask(AudioStart(**form).event(), *chunks, AudioStop().event())
    assert Transcript.from_event(events[-1]).text == "hello"
    pcm = np.concatenate(heard)
    assert abs(len(pcm) - len(tone)) <= 1
    assert decode_words(pcm) == [7, 12]


async def test_text_becomes_speech(serve):
    service = await serve()
    events = await service.ask(Synthesize("here are four words", voice=SynthesizeVoice(name="second")).event())
    assert types(events) == ["audio-start", "audio-chunk", "audio-stop"]
    assert AudioStart.from_event(events[0]).rate == 16_000
    assert decode_words(sound(events)) == [1, 2, 3, 4]
    assert service.engine.in_use == 0


async def test_text_that_arrives_in_pieces_is_spoken_while_it_arrives(serve):
    service = await serve()
    async with service.connect() as client:
        await client.write_event(SynthesizeStart(voice=SynthesizeVoice(name="first")).event())
        await client.write_event(SynthesizeChunk("One two thr").event())
        await client.write_event(SynthesizeChunk("ee. And this").event())
        begun = [await client.read_event() for _ in range(3)]
        assert types(begun) == ["audio-start", "audio-chunk"]  # the first sentence sounds before the second is whole
        await client.write_event(SynthesizeChunk(" is more").event())
        await client.write_event(Synthesize("One two three. And this is more").event())
        await client.write_event(SynthesizeStop().event())
        events = begun
        while events[-1].type != "synthesize-stopped":
            events.append(await client.read_event())
    assert types(events) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    assert decode_words(sound(events)) == [1, 2, 3, 1, 2, 3, 4]


async def test_a_conversation_goes_on_over_connections(serve):
    service = await serve()

    async def say(text: str, conversation: str) -> list[Event]:
        context = {"conversation_id": conversation}
        return await service.ask(Transcript(text, context=context, language="en").event())

    events = await say("Good evening.", "kitchen")
    assert types(events) == ["handled-start", "handled-chunk", "handled-stop", "handled"]
    answer = Handled.from_event(events[-1])
    assert answer.text == "one two three"
    assert answer.context == {"conversation_id": "kitchen"}
    assert "".join(event.data["text"] for event in events if event.type == "handled-chunk") == answer.text
    histories = []
    opened = service.engine.open

    async def spy(**options):
        session = await opened(**options)
        begin = session.begin_turn
        session.begin_turn = lambda history: (histories.append(history), begin(history))[1]
        return session

    service.engine.open = spy
    await say("And now?", "kitchen")
    await say("Who is there?", "hall")
    assert [(message.role, message.text) for message in histories[0]] == [
        ("user", "Good evening."),
        ("assistant", "one two three"),
    ]
    assert not histories[1]


async def test_when_it_is_full_it_says_so_and_the_connection_ends(serve):
    service = await serve(FakeEngine(slots=1))
    session = await service.engine.open()
    for request in (utterance(0.2), [Synthesize("hello").event()], [Transcript("hello").event()]):
        async with service.connect() as client:
            for event in request:
                await client.write_event(event)
            events = await replies_until_end(client)
        assert [event.data["code"] for event in events if event.type == "error"] == ["full"]
    await session.close()
    assert Handled.from_event((await service.ask(Transcript("hello").event()))[-1]).text


async def replies_until_end(client) -> list[Event]:
    found = []
    while (event := await client.read_event()) is not None:
        found.append(event)
    return found


async def test_a_client_that_goes_frees_its_slot(serve):
    clock = VirtualClock()
    service = await serve(FakeEngine(words=3, delay=100, clock=clock))
    async with service.connect() as client:
        await client.write_event(AudioStart(**FORMAT).event())
        await client.write_event(Synthesize("hello").event())
        await client.read_event()
        assert service.engine.in_use == 2
    async with asyncio.timeout(10):
        while service.engine.in_use:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_hundred_abrupt_ends_leave_nothing_behind(serve):
    service = await serve(FakeEngine(words=20, slots=200))
    tasks = len(asyncio.all_tasks())
    requests = (utterance(0.3)[:-1], [Synthesize("one two three").event()], [SynthesizeStart().event()], [])
    for number in range(100):
        _, writer = await asyncio.open_connection("127.0.0.1", service.door.port)
        for event in requests[number % len(requests)]:
            await async_write_event(event, writer)
        if number % 3:
            await asyncio.sleep(0)
        writer.transport.abort()
    async with asyncio.timeout(60):
        while service.engine.in_use or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not service.door._connections


async def test_a_client_that_does_not_read_is_dropped(serve):
    clock = VirtualClock()
    service = await serve(FakeEngine(clock=clock), clock)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # a size that is set does not grow
    client.connect(("127.0.0.1", service.door.port))
    _, writer = await asyncio.open_connection(sock=client, limit=1024)
    await async_write_event(
        Synthesize("word word word word word word word. " * 100).event(), writer
    )  # 350 s of sound: more than sockets hold
    while True:
        with contextlib.suppress(RuntimeError):  # it takes many passes of the loop to fill all buffers
            await clock.settle()
            break
    assert service.engine.in_use == 1
    await clock.advance(12)
    assert service.engine.in_use == 0
    assert not service.door._connections
    writer.close()


async def test_a_client_that_stops_within_an_utterance_is_told_and_its_slot_is_free(serve):
    clock = VirtualClock()
    service = await serve(None, clock)
    reader, writer = await asyncio.open_connection("127.0.0.1", service.door.port)
    for event in utterance(0.3)[:-1]:
        await async_write_event(event, writer)
    await clock.advance(30)
    assert service.engine.in_use == 1
    await clock.advance(40)
    assert service.engine.in_use == 0
    events = []
    while (event := await async_read_event(reader)) is not None:
        events.append(event)
    assert events[-1].data["code"] == "timeout"
    writer.close()


async def test_a_late_answer_begins_with_a_filler_and_never_pauses_for_long(serve):
    """What a listener hears, and when, of an engine that needs 13 s for a sentence (in virtual time)."""
    clock = VirtualClock()
    service = await serve(FakeEngine(words=3, delay=13.0, clock=clock), clock)
    service.phrases.wait = word_tone(99)

    async def listen() -> list[tuple[float, Event]]:
        found: list[tuple[float, Event]] = []
        async with service.connect() as client:
            client.read_timeout = None
            await client.write_event(Synthesize("one two").event())
            while not found or found[-1][1].type != "audio-stop":
                event = await client.read_event()
                found.append((clock.now(), event))
        return found

    found = await clock.run(listen())
    chunks = [(time, event) for time, event in found if event.type == "audio-chunk"]
    assert decode_words(sound([event for _, event in chunks])) == [99, 1, 2]
    times = [0.0, *(time for time, _ in chunks)]
    assert max(later - sooner for sooner, later in pairwise(times)) < 5
    assert times[-1] >= 13


async def test_the_fillers_are_spoken_by_the_engine():
    phrases = Phrases()
    await phrases.make(FakeEngine(), None)
    assert decode_words(phrases.wait) == [1, 2]
    assert decode_words(phrases.sorry) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"wyoming": "http://127.0.0.1:1"}, "tcp://"),
        ({"wyoming": "tcp://127.0.0.1"}, "tcp://"),
        ({"wyoming": "tcp://0.0.0.0:0"}, "--wyoming-allow"),
        ({"wyoming": "tcp://0.0.0.0:0", "wyoming_allow": ["home"]}, "wyoming_allow"),
    ],
)
async def test_settings_that_cannot_work(serve, settings, part):
    with pytest.raises(ConfigError, match=part):
        await serve(**settings)


async def test_a_taken_port_is_told(serve):
    service = await serve()
    with pytest.raises(ConfigError, match=str(service.door.port)):
        await serve(wyoming=f"tcp://127.0.0.1:{service.door.port}")


async def test_strangers_are_refused(serve):
    service = await serve(wyoming_allow=["10.0.0.0/8"])
    (event,) = await service.ask(Describe().event())
    assert event.data["code"] == "not-allowed"
    service = await serve(wyoming_allow=["127.0.0.1"])
    (event,) = await service.ask(Describe().event())
    assert event.type == "info"
