"""The word model: probabilities that sum to one, whatever was pruned, and a file that gives them again."""

import math
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechgpt_gen.models.errors import CheckpointError
from speechgpt_gen.models.recognition.word_model import Context, WordModel

TEXTS = [
    ("What is the capital of France?", 2.0),
    ("What is the capital of Peru?", 1.0),
    ("Tell me, what is it?", 0.5),
    ("The capital of France is Paris.", 1.0),
    ("I saw Paris and it is big.", 1.0),
]


def model(rare: float = 0.0, order: int = 3) -> WordModel:
    return WordModel.fit(TEXTS, order=order, rare=rare)


def contexts(words: WordModel) -> Iterator[Context]:
    """Every context that two known words, or the beginning and one, can make."""
    yield ()
    yield words.begin
    for first, second in product(words.written, repeat=2):
        yield words.after(words.after((), first), second)
        yield words.after(words.begin, first)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("rare", [0.0, 1.0, 2.5])
def test_probabilities_of_all_that_may_follow_sum_to_one(rare: float, order: int) -> None:
    words = model(rare, order)
    beginning = math.exp(words._of((), 0))  # has a share of its own, and never follows
    for context in contexts(words):
        total = sum(math.exp(words.log_prob(context, word)) for word in words.written) + math.exp(
            words.log_end(context)
        )
        assert total == pytest.approx(1.0, abs=beginning + 0.01), context


def test_what_was_said_is_likelier_than_what_was_not() -> None:
    words = model()
    capital_of = words.after(words.after((), "capital"), "of")
    assert words.log_prob(capital_of, "france") > words.log_prob(capital_of, "peru") > words.log_prob(capital_of, "big")
    assert words.log_prob(words.begin, "what") > words.log_prob((), "what"), "many turns begin so"


def test_what_is_rare_is_forgotten_and_told_by_fewer_words() -> None:
    whole, pruned = model(), model(rare=1.5)
    sizes = [[len(level.words) for level in each._levels] for each in (whole, pruned)]
    assert sizes[0][0] == sizes[1][0], "single words stay"
    assert sizes[0][1] > sizes[1][1]
    assert sizes[0][2] > sizes[1][2]
    saw = whole.after(whole.after((), "i"), "saw")
    assert whole.log_prob(saw, "paris") > pruned.log_prob(saw, "paris")


def test_a_word_that_nobody_knows_costs_by_its_letters_and_tells_nothing_of_the_next() -> None:
    words = model()
    assert words.log_prob((), "qat") < min(words.log_prob((), word) for word in words.written)
    assert words.log_prob((), "qatqat") < words.log_prob((), "qat")
    assert words.after(words.begin, "qat") == ()


@given(st.text("abcefhilpst", max_size=4))
def test_a_beginning_is_as_likely_as_all_words_that_have_it(letters: str) -> None:
    words = model()
    known = [word for word in words.written if word.startswith(letters)]
    if known:
        expected = math.log(sum(math.exp(words.log_prob((), word)) for word in known))
        assert words.log_prefix(letters) == pytest.approx(expected, abs=1e-6)
    else:
        assert words.log_prefix(letters) == words.log_prob((), letters)


def test_words_are_written_as_they_are_within_a_sentence() -> None:
    assert model().written == {
        "what": "what",
        "is": "is",
        "the": "the",
        "capital": "capital",
        "of": "of",
        "france": "France",
        "peru": "Peru",
        "tell": "Tell",
        "me": "me",
        "it": "it",
        "paris": "Paris",
        "i": "I",
        "saw": "saw",
        "and": "and",
        "big": "big",
    }


def test_tensors_give_the_model_again() -> None:
    words = model()
    again = WordModel.from_tensors(words.tensors(), "here")
    assert again.written == words.written
    for context, word in product(contexts(words), ("paris", "of", "qat")):
        assert again.log_prob(context, word) == words.log_prob(context, word)


@pytest.mark.parametrize("spoilt", ["words", "2.first", "1.words"])
def test_tensors_of_something_else_are_told_in_a_line(spoilt: str) -> None:
    tensors = model().tensors()
    without = {name: tensor for name, tensor in tensors.items() if name != spoilt}
    with pytest.raises(CheckpointError, match="here holds no word model"):
        WordModel.from_tensors(without, "here")
    with pytest.raises(CheckpointError, match="here holds no word model"):
        WordModel.from_tensors(tensors | {spoilt: torch.zeros(3, dtype=tensors[spoilt].dtype)}, "here")
