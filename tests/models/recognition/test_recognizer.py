"""The reader alone against rows with others, and a turn in pieces against the whole of it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.recognition.beam_search import BeamSearch, SearchConfig
from speechgpt_gen.models.recognition.reader import LetterReader, ReaderConfig
from speechgpt_gen.models.recognition.recognizer import Recognizer
from speechgpt_gen.models.recognition.word_model import WordModel
from speechgpt_gen.models.semantic.vocabulary import N_UNITS

WORDS = WordModel.fit([("Hello there, how are you?", 1.0), ("He is here.", 1.0)], rare=0.0)


@pytest.fixture(scope="module")
def reader() -> LetterReader:
    torch.manual_seed(4)
    made = LetterReader(ReaderConfig(dim=16, layers=2, kernel=5, detail=3)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def turn(frames: int, seed: int = 0) -> torch.Tensor:
    """Units, every other one with detail."""
    units = torch.randint(N_UNITS, (frames,), generator=torch.Generator().manual_seed(seed))
    return units + N_UNITS * (torch.arange(frames) % 2) * (1 + units % 64)


def test_a_row_is_read_as_if_it_were_alone(reader: LetterReader) -> None:
    rows, lengths = [turn(40), turn(23, 1)], torch.tensor([40, 23])
    read = reader(torch.stack([torch.nn.functional.pad(row, (0, 40 - len(row))) for row in rows]), lengths)
    for row, letters in zip(rows, read, strict=True):
        torch.testing.assert_close(letters[: len(row)], reader(row[None])[0], rtol=1e-4, atol=1e-5)


def test_letters_depend_on_what_is_within_reach_and_on_detail(reader: LetterReader) -> None:
    units = turn(60)
    before, reach = reader(units[None])[0], reader.config.reach
    for changed in (units[31] + N_UNITS, units[31] % N_UNITS, (units[31] + 1) % N_UNITS):
        other = units.clone()
        other[31] = changed
        moved = (reader(other[None])[0] != before).any(-1).nonzero()[:, 0]
        assert (int(moved.min()), int(moved.max())) == (31 - reach, 31 + reach)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel is 4"):
        ReaderConfig(kernel=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 170), max_size=5), st.integers(0, 170))
def test_a_turn_in_any_pieces_is_the_whole_turn(reader: LetterReader, cuts: list[int], frames: int) -> None:
    units = turn(frames, frames).tolist()
    recognizer = Recognizer(reader, WORDS, SearchConfig(width=4))
    hearing = recognizer.begin()
    edges = [0, *sorted(min(cut, frames) for cut in cuts), frames]
    for first, last in pairwise(edges):
        hearing = recognizer.hear(hearing, units[first:last])
        recognizer.text(hearing)  # an end that is not yet one changes nothing
    assert hearing == recognizer.hear(recognizer.begin(), units)


def test_a_turn_is_what_the_search_finds_in_the_whole_of_it(reader: LetterReader) -> None:
    units = turn(150)
    with torch.inference_mode():
        letters = reader(units[None])[0].numpy()
    search = BeamSearch(WORDS, SearchConfig())
    (best, *_) = search.texts(search.step(search.begin(), letters))
    recognizer = Recognizer(reader, WORDS)
    said = recognizer.text(recognizer.hear(recognizer.begin(), units.tolist()))
    assert said.lower() == " ".join(WORDS.written.get(word, word) for word in best.split()).lower()
    assert said
    assert said[0] == said[0].upper()


def test_nothing_heard_is_nothing_said(reader: LetterReader) -> None:
    recognizer = Recognizer(reader, WORDS)
    assert recognizer.text(recognizer.begin()) == ""
