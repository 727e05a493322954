"""semantic_vad: how long a pause may be depends on the words before it."""

import pytest

from speechgpt_gen.agent.session.endpointing import judge


@pytest.mark.parametrize(
    ("words", "judgement"),
    [
        ("What is the time?", "finished"),
        ("I like it.", "finished"),
        ("what is the time", "unclear"),
        ("who did you talk to", "unclear"),
        ("I think so", "unclear"),
        ("", "unclear"),
        ("an umbrella", "unclear"),
        ("I want to go to the", "unfinished"),
        ("Well, um", "unfinished"),
        ("Because we’re", "unfinished"),
        ("First, ", "unfinished"),
        ("So I was thinking...", "unfinished"),
    ],
)
def test_the_end_of_a_transcript_tells_whether_it_is_whole(words, judgement):
    assert judge(words) == judgement


@pytest.mark.parametrize(
    ("transcript", "eagerness", "wait"),
    [
        ("what is the time?", "low", 700),
        ("what is the time?", "auto", 400),
        ("what is the time?", "high", 250),
        ("what is the time", "low", 1200),
        ("what is the time", "medium", 600),
        ("what is the time", "high", 400),
        ("what is the", "low", 4000),
        ("what is the", "medium", 2000),
        ("what is the", "high", 1000),
    ],
)
@pytest.mark.parametrize("create_response", [True, False])
async def test_eagerness_and_words_decide_how_long_to_wait(call, transcript, eagerness, wait, create_response):
    caller = call(words=1, transcript=transcript)
    detection = {"type": "semantic_vad", "eagerness": eagerness, "create_response": create_response}
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    await caller.say(2.0, 5.0)
    stopped = caller.one("input_audio_buffer.speech_stopped")
    assert stopped["audio_end_ms"] == pytest.approx(2000 + wait, abs=25)
    assert len(caller.answers) == create_response


async def test_a_pause_after_half_a_sentence_is_no_end(call):
    caller = call(words=1, transcript="I would like a")
    detection = {"type": "semantic_vad"}
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    await caller.say(2.0, 1.5)
    caller.engine.transcript = "I would like a cup of tea."
    await caller.say(1.0, 1.0)
    assert len(caller.all("input_audio_buffer.speech_started")) == 1
    assert caller.one("input_audio_buffer.speech_stopped")["audio_end_ms"] == pytest.approx(4500 + 400, abs=25)
    assert caller.answers == [("completed", "one")]


async def test_sound_in_large_pieces_is_judged_frame_by_frame(call):
    caller = call(words=1, transcript="what is the")
    detection = {"type": "semantic_vad", "eagerness": "high", "create_response": False}
    await caller.send("session.update", session={"audio": {"input": {"turn_detection": detection}}})
    await caller.append(1.5)
    await caller.append(0.9, level=0)
    assert not caller.all("input_audio_buffer.speech_stopped")
    await caller.append(0.2, level=0)
    assert caller.one("input_audio_buffer.speech_stopped")["audio_end_ms"] == pytest.approx(2500, abs=40)
