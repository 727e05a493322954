"""Text as it is spoken."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from speechgpt_gen.models.errors import TextError
from speechgpt_gen.models.semantic.text import MAX_CHARACTERS, normalise, sentences


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("It costs $5.20.", "It costs five dollars and twenty cents."),
        (
            "$1, -$2.01 and $3.5 million",
            "one dollar, minus two dollars and one cent and three point five million dollars",
        ),
        ("\u20ac50 or \u00a31.01", "fifty euros or one pound and one penny"),
        ("5% of 1,234", "five percent of one thousand two hundred and thirty-four"),
        ("the 3rd, 21st and 112th", "the third, twenty-first and one hundred and twelfth"),
        ("at 10:30 a.m., 9:00 or 21:05", "at ten thirty A M, nine o'clock or twenty-one oh five"),
        (
            "In 1999, the 1990s and 2024-2025",
            "In nineteen ninety-nine, the nineteen nineties and twenty twenty-four to twenty twenty-five",
        ),
        ("pi = 3.14", "pi equals three point one four"),
        (
            "-5\u00b0C at 20 km/h for 3.5kg",
            "minus five degrees Celsius at twenty kilometers per hour for three point five kilograms",
        ),
        ("Dr. Smith vs. Mrs. Jones, i.e. us", "Doctor Smith versus Missus Jones, that is us"),
        ("call 0800, room 007", "call zero eight zero zero, room zero zero seven"),
        ("\u00bd cup, 3/4 done", "one half cup, three quarters done"),
        ("caf\u00e9 \u2014 na\u00efve\u2026 \u201cok\u201d", "cafe, naive. ok"),
        ("**Bold** [link](http://x.y) `code` - done", "Bold link code, done"),
        ("bob@example.com & www.a.org", "bob at example dot com and a dot org"),
        ("7up 4x4 B2B", "seven up four x four B two B"),
        ("Really?!  Yes!!! \U0001f600 .", "Really? Yes!"),
        ("well-known, it's 'fine'", "well-known, it's 'fine'"),
        ("9" * 16, " ".join(["nine"] * 16)),
    ],
)
def test_spoken(written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@given(st.text(max_size=60))
def test_any_text_becomes_speakable_words_or_a_text_error(text: str) -> None:
    try:
        spoken = normalise(text)
    except TextError:
        assert not any(c.isascii() and c.isalnum() for c in text)
        return
    assert spoken.isascii()
    assert not any(c.isdigit() for c in spoken)
    for word in spoken.split(" "):
        assert any(c.isalpha() for c in word), spoken


@given(st.text(alphabet="ab1$%,-/ \u00b0", max_size=40))
@example("1,,aa")
def test_normalising_twice_changes_nothing(text: str) -> None:
    try:
        once = normalise(text)
    except TextError:
        return
    assert normalise(once) == once


@pytest.mark.parametrize("text", ["", " \n", "...", "\U0001f600", "\u65e5\u672c\u8a9e", "-"])
def test_nothing_to_speak_is_an_error(text: str) -> None:
    with pytest.raises(TextError, match="nothing that can be spoken"):
        normalise(text)


def test_too_long_is_an_error() -> None:
    with pytest.raises(TextError, match=f"at most {MAX_CHARACTERS}"):
        normalise("a" * (MAX_CHARACTERS + 1))


@given(st.lists(st.text(alphabet="abc.,!? ", min_size=1, max_size=90), max_size=8))
def test_sentences_keep_every_word_and_stay_short(parts: list[str]) -> None:
    text = " ".join(" ".join(parts).split())
    cut = sentences(text)
    assert all(0 < len(piece) <= 160 for piece in cut)
    assert "".join(cut).replace(" ", "") == text.replace(" ", "")


def test_sentences_end_where_sentences_end() -> None:
    assert sentences("One. Two? Three, and four!") == ["One.", "Two?", "Three, and four!"]
    long = f"{'word ' * 20}end, {'word ' * 20}stop"
    assert sentences(long) == [f"{'word ' * 20}end,", f"{'word ' * 20}stop"]
