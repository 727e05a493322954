"""The report of where the time of an answer went."""

from speechgpt_gen.agent.session.timeline import Timeline
from speechgpt_gen.streaming.engine.protocol import Finished


def test_what_was_ready_before_the_user_had_finished_took_nobody_any_time():
    line = Timeline(since=10.0, decided=10.4, generating=9.8, preemptive=True, played=10.41)
    report = line.report(Finished("completed", timings={"first_token": 50.0, "first_audio": 450.0}), 0)
    assert report == {
        "end_of_turn_ms": "400",
        "first_token_ms": "0",
        "first_audio_ms": "250",
        "played_ms": "410",
        "preemptive": "true",
        "underruns": "0",
    }


def test_parts_of_a_shared_engine_are_told_as_they_are():
    line = Timeline(since=10.0, decided=10.4, generating=10.4)
    parts = {"queue": 3.04, "decode": 57.25, "flow": 8.0}
    report = line.report(Finished("completed", timings={"first_audio": 80.0}, parts=parts), 2)
    assert {name: report[f"{name}_ms"] for name in parts} == {"queue": "3.0", "decode": "57.2", "flow": "8.0"}
    assert len(report) <= 16, "the protocol's metadata holds no more"
    assert "queue_ms" not in line.report(Finished("completed"), 0)
