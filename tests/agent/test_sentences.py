"""Text that arrives in pieces, cut into sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechgpt_gen.agent.sentences import LONGEST, PASSAGE, Sentences, passages
from speechgpt_gen.models.errors import TextError


def cut(*pieces: str) -> list[str]:
    sentences = Sentences()
    return [sentence for piece in pieces for sentence in sentences.push(piece)] + sentences.flush()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One two. Three!  Four? five", ["One two.", "Three!", "Four?", "five"]),
        ("Dr. Smith met J. Doe, e.g. here. Then he left.", ["Dr. Smith met J. Doe, e.g. here.", "Then he left."]),
        ("It costs 3.50 now. Good.", ["It costs 3.50 now.", "Good."]),
        ('He said "no." And left.', ['He said "no."', "And left."]),
        ("A line\nand another\n\n", ["A line", "and another"]),
        ("... !? \n", []),
    ],
)
def test_sentences(text, sentences):
    assert cut(text) == sentences
    assert cut(*text) == sentences


def test_a_sentence_is_known_before_the_rest_comes():
    sentences = Sentences()
    assert sentences.push("It is late. I am") == ["It is late."]


@given(st.lists(st.text(alphabet="ab .,!\n", max_size=80), max_size=12))
def test_nothing_that_is_spoken_is_lost_and_nothing_is_too_long(pieces):
    found = cut(*pieces)
    assert all(len(sentence) <= LONGEST for sentence in found)
    spoken = [c for c in "".join(pieces) if c.isalnum()]
    assert [c for sentence in found for c in sentence if c.isalnum()] == spoken


def test_a_long_sentence_is_cut_at_a_comma():
    text = "word " * 40 + "comma, " + "word " * 40
    assert cut(text)[0].endswith("comma,")


def test_a_long_text_is_spoken_in_passages_of_whole_sentences():
    text = "The cat sat on the mat. " * 200
    found = list(passages(text))
    assert " ".join(found) == text.strip()
    assert all(len(passage) <= PASSAGE and passage.endswith(".") for passage in found)
    assert len(found) < 10


def test_what_cannot_be_spoken_is_left_out_unless_it_is_all():
    assert list(passages("你好。\nGood day. 再见！\nGo on.")) == ["Good day. Go on."]
    assert list(passages("%")) == ["%"]
    with pytest.raises(TextError):
        list(passages("..."))
