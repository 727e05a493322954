"""Dialogue templates: answers fit their questions, and what is kept for judging was never asked in training."""

import numpy as np
from num2words import num2words

from speechgpt_gen.models.training.synthesis.dialogues import dialogues, no_speech, several_turns


def test_phrasings_for_judging_are_never_trained_on() -> None:
    made = dialogues()
    train = {(d.template, d.question) for d in made if d.split == "train"}
    valid = {(d.template, d.question) for d in made if d.split == "valid"}
    assert valid
    assert not train & valid
    asked = {d.template for d in made if not d.template.startswith("told.")}
    assert {d.template for d in made if d.split == "valid"} == asked


def test_what_is_told_before_a_question_is_also_told_as_a_first_turn() -> None:
    made = dialogues()
    told = {d.question: d.answers for d in made if d.template.startswith("told.")}
    topics = {d.template.removeprefix("told.") for d in made if d.template.startswith("told.")}
    remembered = [d for d in made if d.template.removeprefix("turns.") in topics]
    assert {"name", "city"} <= topics
    assert len(remembered) > 100
    for d in remembered:
        statement, reply = d.turns[0]
        assert reply in told[statement]


def test_every_slot_is_filled_and_every_answer_depends_on_the_turns() -> None:
    for d in dialogues():
        texts = [*(text for turn in d.turns for text in turn), d.question, *d.answers]
        assert not any("{" in text for text in texts)
        assert all(text[0].isupper() and text[-1] in ".?!" for text in texts), d
        if d.template == "turns.name":
            name = d.answers[0].removeprefix("Your name is ").rstrip(".")
            assert name in " ".join(text for turn in d.turns for text in turn)
            assert name not in d.question


def test_sums_go_on_from_the_last_one() -> None:
    sums = [d for d in dialogues() if d.template == "turns.add"]
    assert len(sums) > 100
    words = [num2words(n) for n in range(20)]
    for d in sums:
        left, right = d.answers[0].rstrip(".").lower().split(" is ")
        a, b = left.split(" plus ")
        assert words.index(a) + words.index(b) == words.index(right)
        assert d.turns[0][1].rstrip(".").endswith(f" {a}")


def test_dialogues_are_the_same_each_time() -> None:
    assert dialogues(3) == dialogues(3)
    assert all(d.turns for d in several_turns("valid"))


def test_what_is_no_speech_is_audible_sound_within_limits() -> None:
    sounds = dict(no_speech(0))
    assert len(sounds) >= 6
    for name, pcm in sounds.items():
        assert pcm.dtype == np.float32
        assert np.abs(pcm).max() <= 1.0, name
        assert pcm.std() > 0, name
