"""Every task runs on the tiny model and material of noise, with judges that need no package."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from speechgpt_gen import SpeechGPTGen
from speechgpt_gen.models.evaluation.judges import Judges
from speechgpt_gen.models.evaluation.material import Clip, HeldOutVoice, Material
from speechgpt_gen.models.evaluation.tasks import TASKS, Run, _talk, _talk_of_others
from speechgpt_gen.models.semantic.pieces import Message

Pcm = NDArray[np.float32]


class FakeJudges(Judges):
    """Hears always the same words; speakers are as alike as their loudness."""

    def read(self, pcm: Pcm) -> str:
        return "i do not know" if len(pcm) else ""

    def normalise(self, text: str) -> str:
        return text.lower().replace(".", "").replace("?", "")

    def errors(self, truth: str, heard: str) -> tuple[int, int]:
        return int(self.normalise(truth) != self.normalise(heard)), 1

    def similarity(self, one: Pcm, other: Pcm) -> float:
        return float("nan") if len(one) == 0 else 1.0

    def quality(self, pcm: Pcm) -> float:
        return 2.5

    def against(self, truth: Pcm, made: Pcm) -> tuple[float, float]:
        return 1.0, 0.5


def _noise(seed: int) -> Pcm:
    return (0.1 * np.random.default_rng(seed).standard_normal(24_000)).astype(np.float32)


@pytest.fixture(scope="module")
def run() -> Run:
    history = (Message("user", "My name is Ada."), Message("assistant", "Hello, Ada."))
    material = Material(
        sentences=[Clip("ann", "I do not know.", _noise(0)), Clip("bob", "The sea is calm.", _noise(1))],
        questions=[Clip("ann", "Who is it?", _noise(2), ("I do not know.",))],
        unknowable=[Clip("bob", "What time is it?", _noise(3))],
        dialogues=[Clip("ann", "What is my name?", _noise(4), ("Your name is Ada.",), history, (_noise(9),))],
        voices=[HeldOutVoice("ann", _noise(5), _noise(6)), HeldOutVoice("bob", _noise(7), _noise(8))],
    )
    made = Run(SpeechGPTGen.load("tiny"), FakeJudges(), material, items=2, say=lambda line: None)
    for task in TASKS.values():
        task(made)
    return made


def test_every_task_gives_figures_and_a_record_an_item(run: Run) -> None:
    assert {f.task for f in run.figures} == set(TASKS)
    counted = {
        task: sum(r["task"] == task for r in run.records) for task in ("tokenizer", "tts", "vc", "asr", "dialogue")
    }
    assert counted == {"tokenizer": 2, "tts": 2, "vc": 2, "asr": 3, "dialogue": 1}


def test_figures_say_what_the_judges_said(run: Run) -> None:
    values = {(f.task, f.measure): f.value for f in run.figures}
    assert values["tokenizer", f"WER, all {run.model.bundle.tokenizer.n_q} levels"] == 50.0
    assert values["dialogue", "right content, heard by the judge"] == 100.0
    assert values["dialogue", "asked what it can't know, says so"] == 100.0
    assert values["dialogue", "earlier turns remembered"] == 0.0
    assert values["dialogue", "the same, as planned in text"] is not None
    assert values["dialogue", "as planned, when those turns were spoken too"] is not None
    assert values["dialogue", "the same after three other turns"] is not None
    assert values["tts", "DNSMOS, default voice"] == 2.5


def test_other_turns_are_those_of_other_questions() -> None:
    clips = [Clip("ann", f"q{n}", _noise(n), (f"a{n}", "or so")) for n in range(5)]
    told = [(m.role, m.text) for m in _talk_of_others(clips, 3)]
    asked = [(("user", f"q{n}"), ("assistant", f"a{n}")) for n in (4, 0, 1)]
    assert told == [message for turn in asked for message in turn]
    assert _talk_of_others(clips[:1], 0) == ()


def test_a_spoken_talk_keeps_what_was_heard_and_answered_and_no_turn_that_was_not_understood() -> None:
    told: list[tuple[str, ...]] = []

    def reply(audio: tuple[Pcm, int], history: tuple[Message, ...], **_: object) -> SimpleNamespace:
        told.append(tuple(m.text for m in history))
        heard = "" if not audio[0].any() else f"I said {len(told)}."
        return SimpleNamespace(transcript=heard, text=heard and f"You said {len(told)}.")

    run = cast(Run, SimpleNamespace(model=SimpleNamespace(reply=reply), seed=0))
    history = _talk(run, Clip("ann", "What?", _noise(0), turns=(_noise(1), np.zeros(9, np.float32), _noise(2))))
    assert [m.text for m in history] == ["I said 1.", "You said 1.", "I said 3.", "You said 3."]
    assert told == [(), ("I said 1.", "You said 1."), ("I said 1.", "You said 1.")]


def test_a_stream_is_the_whole(run: Run) -> None:
    difference = next(f for f in run.figures if f.measure == "streamed to one piece, largest difference")
    assert difference.value is not None
    assert difference.value < 1e-3


def test_the_target_voice_is_another_than_the_source(run: Run) -> None:
    converted = [r for r in run.records if r["task"] == "vc"]
    assert all(r["source"] != r["target"] for r in converted)
