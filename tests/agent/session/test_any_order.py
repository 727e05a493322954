"""Whatever a client does, in whatever order: everything opened is closed, once, and nothing stumbles."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechgpt_gen.streaming.clock import VirtualClock
from speechgpt_gen.streaming.engine.fake import FakeEngine

seconds = st.sampled_from([0.04, 0.2, 0.5, 1.2])
detections = st.sampled_from(
    [
        None,
        {"type": "server_vad"},
        {"type": "server_vad", "interrupt_response": False},
        {"type": "server_vad", "create_response": False},
        {"type": "semantic_vad", "eagerness": "high"},
    ]
)
actions = st.one_of(
    st.tuples(st.just("speak"), seconds),
    st.tuples(st.just("pause"), seconds),
    st.tuples(st.just("append"), seconds),
    st.tuples(st.just("detect"), detections),
    st.tuples(st.just("text"), st.just(None)),
    st.tuples(st.just("truncate"), st.integers(0, 1500)),
    st.tuples(
        st.just("event"),
        st.sampled_from(
            [
                "input_audio_buffer.commit",
                "input_audio_buffer.clear",
                "response.create",
                "response.cancel",
                "output_audio_buffer.clear",
            ]
        ),
    ),
    st.tuples(st.just("delete"), st.integers(0, 5)),
)


async def act(caller, action, value):
    items = [event["item"]["id"] for event in caller.all("conversation.item.added")]
    if action == "speak":
        await caller.say(value)
    elif action == "pause":
        await caller.listen(value)
    elif action == "append":
        await caller.append(value)
    elif action == "text":
        await caller.text("Hello.")
    elif action == "detect":
        await caller.send("session.update", session={"audio": {"input": {"turn_detection": value}}})
    elif action == "event":
        await caller.send(value)
    elif action == "truncate" and items:
        await caller.send("conversation.item.truncate", item_id=items[-1], content_index=0, audio_end_ms=value)
    elif action == "delete" and items:
        await caller.send("conversation.item.delete", item_id=items[value % len(items)])


def check(events):
    """Every response, item and part is opened and closed once; transcripts come once and continue their deltas."""
    active, opened, completed, deltas = None, set(), set(), {}
    for event in events:
        kind, item = event["type"], event.get("item_id")
        if kind == "response.created":
            assert active is None
            active = event["response"]["id"]
        elif kind == "response.done":
            assert event["response"]["id"] == active
            assert not opened
            active = None
        elif kind.startswith("response."):
            assert event["response_id"] == active
            for what in ("output_item", "content_part"):
                if kind == f"response.{what}.added":
                    opened.add(what)
                elif kind == f"response.{what}.done":
                    opened.remove(what)
        elif kind.endswith("transcription.delta"):
            assert item not in completed
            deltas[item] = deltas.get(item, "") + event["delta"]
        elif kind.endswith("transcription.completed"):
            assert item not in completed
            completed.add(item)
            assert event["transcript"].startswith(deltas.get(item, ""))
        elif kind == "error":
            assert event["error"]["code"] != "internal_error", event
    return active


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
@given(script=st.lists(actions, min_size=1, max_size=10), delay=st.sampled_from([0.0, 0.3]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_opened_is_closed(caller_class, transport, script, delay):
    async def scenario():
        clock = VirtualClock()
        engine = FakeEngine(3, 2, "what is it", delay, clock=clock)
        caller = caller_class(engine, clock, transport)
        for action, value in script:
            await act(caller, action, value)
            if transport == "webrtc":
                caller.playout.pull(3200)
        for _ in range(60):
            caller.playout.pull(1600 if transport == "webrtc" else 0)
            await clock.advance(0.1)
        assert check([event for _, event in caller.seen]) is None
        assert caller.conversation.state == "listening"
        caller.conversation.close("done")
        await clock.settle()
        assert caller.task.done()
        assert engine.in_use == 0

    asyncio.run(scenario())
