"""What counts as the right content of an answer."""

import re

import pytest

from speechgpt_gen.models.evaluation.content import admits, content_words, right

_DIGITS = {
    "one hundred and twenty": "120",
    "thirty two": "32",
    "sixty four": "64",
    "eighty one": "81",
    "twenty": "20",
    "six": "6",
    "four": "4",
}


def normalise(text: str) -> str:
    """A small stand-in for the judge's normaliser: lower case, no punctuation, a few numbers as digits."""
    plain = " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())
    for words, digits in _DIGITS.items():
        plain = re.sub(rf"\b{words}\b", digits, plain)
    return plain


def test_what_the_question_said_is_not_asked_of_the_answer() -> None:
    asked, answer = "What is half of sixty-four?", "Half of sixty-four is thirty-two."
    assert content_words(asked, answer, normalise) == ["32"]


@pytest.mark.parametrize(
    ("question", "answer", "heard", "expected"),
    [
        ("What is half of sixty-four?", "Half of sixty-four is thirty-two.", "It is 32.", True),
        ("What is half of sixty-four?", "Half of sixty-four is thirty-two.", "Half of 64 is 31.", False),
        ("What is the capital of Mali?", "The capital of Mali is Bamako.", "It is called Bamako!", True),
        ("What is the capital of Mali?", "The capital of Mali is Bamako.", "The capital of Mali is Cairo.", False),
        ("How do I write flower?", "Flower is spelled F, L, O, W, E, R.", "Flower is spelled F-L-O-W-E-R.", True),
        ("How do I write flower?", "Flower is spelled F, L, O, W, E, R.", "Flower is spelled FLOWER.", True),
        ("How do I write flower?", "Flower is spelled F, L, O, W, E, R.", "Flower is spelled F-L-O-U-R.", False),
        ("How do I write flower?", "Flower is spelled F, L, O, W, E, R.", "Flower is a nice word.", False),
        ("Compare twenty and eighty-one.", "Eighty-one is bigger than twenty.", "81 is bigger than 20.", True),
        ("Compare twenty and eighty-one.", "Eighty-one is bigger than twenty.", "20 is bigger than 81.", False),
        ("Is eighty-one even or odd?", "The number eighty-one is an odd number.", "81 is an odd number.", True),
        ("Is eighty-one even or odd?", "The number eighty-one is an odd number.", "81 is an even number.", False),
        ("Is eighty-one even or odd?", "The number eighty-one is an odd number.", "Is 81 even or odd?", False),
        ("Put go into the past.", "Today I go, yesterday I went.", "The past tense of go is went.", True),
        ("Put go into the past.", "Today I go, yesterday I went.", "Today I go, yesterday I goed.", False),
        ("What do they speak in Iran?", "The main language of Iran is Persian.", "Most people speak Persian.", True),
        ("What does the earth go around?", "The earth goes around the sun.", "The earth goes around the moon.", False),
        ("What does the earth go around?", "The earth goes around the sun.", "Around the sun.", True),
        ("Say: the sea is calm.", "The sea is calm.", "The sea is calm.", True),
        ("Say: the sea is calm.", "The sea is calm.", "Calm.", False),
        ("Order baby and quick.", "First comes baby, then quick.", "Baby comes before quick.", True),
        ("Order baby and quick.", "First comes baby, then quick.", "Quick comes before baby.", False),
        ("Order answer and light.", "Answer comes before light.", "First comes answer, then light.", True),
        ("Order answer and light.", "Answer comes before light.", "First comes light, then answer.", False),
        ("Five days in hours?", "Five days are one hundred and twenty hours.", "5 days are 100 and 20 hours.", True),
        ("Five days in hours?", "Five days are one hundred and twenty hours.", "5 days are 100 and 30 hours.", False),
        ("Five days in hours?", "Five days are one hundred and twenty hours.", "5 days are 20 hours.", False),
        ("Which animal barks?", "A dog barks.", "Dogs!", True),
        ("Which animal barks?", "A dog barks.", "", False),
    ],
)
def test_answers_are_judged_by_their_content(question: str, answer: str, heard: str, expected: bool) -> None:
    assert right(question, [answer], heard, normalise) is expected


def test_any_accepted_answer_will_do() -> None:
    assert right("Hello.", ["Hi there, friend.", "Good day to you."], "Good day to you!", normalise)
    assert not right("Hello.", ["Hi there, friend.", "Good day to you."], "Seven apples.", normalise)


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ("Sorry, I do not know that about you.", True),
        ("I cannot look outside.", True),
        ("Nobody can know the future.", True),
        ("It will rain tomorrow.", False),
        ("", False),
    ],
)
def test_admitting_not_to_know(heard: str, expected: bool) -> None:
    assert admits(heard, normalise) is expected
