"""Exercises: each answer is right by another way of working it out, and asked in a wording of its template."""

import operator
import re

from num2words import num2words

from speechgpt_gen.models.training.synthesis.exercises import Exercise, exercises
from speechgpt_gen.models.training.synthesis.other_words import templates, wordings

MADE = list(exercises(40))
VALUES = {str(num2words(n)).replace(",", ""): n for n in range(12_001)}
WORD = "[a-z]+(?:[- ](?:and )?[a-z]+)*?"
RULES = {
    "math.plus": (rf"(?:the sum of )?({WORD}) (?:plus|and) ({WORD}) (?:is|equals) ({WORD})\.", operator.add),
    "math.times": (
        rf"(?:if you multiply )?({WORD}) (?:times|by) ({WORD})(?: is| equals|, you get) ({WORD})\.",
        operator.mul,
    ),
    "math.divide": (rf"({WORD}) divided by ({WORD}) (?:is|equals) ({WORD})\.", operator.truediv),
    "math.bigger": (rf"({WORD}) is (?:bigger|more) than ({WORD})()\.", max),
}


def of(template: str) -> list[Exercise]:
    return [made for made in MADE if made.template == template]


def test_every_rule_has_its_exercises_and_no_slot_is_left_open() -> None:
    assert {made.template for made in MADE} <= set(templates())
    assert len({made.template for made in MADE}) > 30
    for made in MADE:
        assert "{" not in made.question + made.answer
        assert made.question[0].isupper()
        assert made.answer[0].isupper()
        assert made.answer[-1] in ".?!"
        assert not re.search(r"\d", made.question + made.answer), "numbers are words"


def test_questions_are_wordings_of_their_template() -> None:
    for made in MADE:
        patterns = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(way)) for way in wordings(made.template)]
        assert any(re.fullmatch(pattern, made.question, re.IGNORECASE) for pattern in patterns), made


def test_sums_are_right() -> None:
    for template, (pattern, work_out) in RULES.items():
        for made in of(template):
            found = re.fullmatch(pattern, made.answer, re.IGNORECASE)
            assert found is not None, made
            a, b = (VALUES[text.lower()] for text in found.groups()[:2])
            assert work_out(a, b) == (VALUES[found[3].lower()] if found[3] else a), made


def test_words_are_spelled_and_counted() -> None:
    for made in of("spell.word"):
        letters = re.split(r"spelled |this: ", made.answer)[1].rstrip(".").split(", ")
        assert "".join(letters).lower() in re.findall("[a-z]+", made.answer.lower())
        assert "".join(letters).lower() in re.findall("[a-z]+", made.question.lower())
    for made in of("spell.backwards"):
        word, letters = made.answer.rstrip(".").split(" backwards is ")
        assert "".join(reversed(letters.split(", "))).lower() == word.lower()
    for made in of("spell.count"):
        word, number = re.fullmatch(r"The word (\w+) has (\w+) letters\.", made.answer).groups()  # type: ignore[union-attr]
        assert VALUES[number] == len(word)
    for made in of("abc.order"):
        first, then = re.findall("[a-z]+", re.sub("First comes|comes before|then", "", made.answer, flags=re.I).lower())
        assert first < then


def test_a_seed_makes_the_same_and_another_does_not() -> None:
    assert list(exercises(2, 5)) == list(exercises(2, 5)) != list(exercises(2, 6))
    assert list(exercises(0)) == []
