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
