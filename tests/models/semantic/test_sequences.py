"""The training layout, written out by hand."""

from itertools import pairwise

import pytest

from speechgpt_gen.models.semantic import sequences
from speechgpt_gen.models.semantic.pieces import Message
from speechgpt_gen.models.semantic.sequences import IGNORED, Labelled, TimedWord
from speechgpt_gen.models.semantic.vocabulary import N_UNITS, SpeechVocabulary


@pytest.fixture(scope="module")
def vocabulary() -> SpeechVocabulary:
    return SpeechVocabulary.train_bpe(["hello there how are you today, my friend?"] * 3, 120)


NAMES = ["sosp", "eosp", "human", "speechgpt", "eoh", "eos", "ta", "ua", "listen", "system"]


def show(vocabulary: SpeechVocabulary, made: Labelled) -> str:
    """token/target pairs; text tokens with `_` for the word start, units as u0."""
    names = {getattr(vocabulary, n): n for n in NAMES}

    def name(token: int) -> str:
        if token == IGNORED:
            return "."
        if vocabulary.is_unit(token):
            return f"u{vocabulary.unit_index(token)}"
        return names.get(token) or vocabulary.piece(token).replace(" ", "_")

    return " ".join(f"{name(a)}/{name(b)}" for a, b in zip(made.tokens, made.targets, strict=True))


def test_heard_speech_is_a_transducer(vocabulary: SpeechVocabulary) -> None:
    made = sequences.heard(vocabulary, [5, 6, 7], [TimedWord("xh", 2), TimedWord("you", 2), TimedWord("x", 9)])
    assert show(vocabulary, made) == (
        "human/. sosp/. u5/listen u6/_ _/x x/h h/_you _you/listen u7/listen eosp/_ _/x x/eoh eoh/."
    )


def test_a_turn_that_goes_on_has_no_end(vocabulary: SpeechVocabulary) -> None:
    whole = sequences.heard(vocabulary, [5, 6, 7], [TimedWord("you", 2), TimedWord("are", 3)])
    part = sequences.heard(vocabulary, [5, 6], [TimedWord("you", 2), TimedWord("are", 3)], final=False)
    assert part.tokens == whole.tokens[: len(part)]
    assert part.targets == whole.targets[: len(part)]


def test_word_ends_never_go_back(vocabulary: SpeechVocabulary) -> None:
    made = sequences.heard(vocabulary, [5, 6], [TimedWord("you", 2), TimedWord("are", 1)])
    assert show(vocabulary, made).startswith("human/. sosp/. u5/listen u6/_you _you/_are _are/listen eosp/eoh")
    early = sequences.heard(vocabulary, [5], [TimedWord("you", 0)])
    assert show(vocabulary, early) == "human/. sosp/. u5/_you _you/listen eosp/eoh eoh/."


def test_answer_by_text_learns_text_and_units_but_not_the_spelling(vocabulary: SpeechVocabulary) -> None:
    words = [TimedWord("You", 2), TimedWord("are", 9)]
    made = sequences.answer(vocabulary, [1, 2, 3], words, "text")
    spoken = "y/. o/. u/. sosp/u1 u1/u2 u2/eosp eosp/. a/. r/. e/. sosp/u3 u3/eosp eosp/. eos/."
    assert show(vocabulary, made) == f"speechgpt/. ta/_ _/Y Y/o o/u u/_are _are/ua ua/. {spoken}".replace(
        "_ _/Y Y/o o/u u", " ".join(show_text(vocabulary, "You"))
    )
    reading = sequences.answer(vocabulary, [1, 2, 3], words, "text", learn_text=False)
    assert reading.tokens == made.tokens
    assert show(vocabulary, reading).endswith(f"_are/. ua/. {spoken}")
    assert all(t in (IGNORED, vocabulary.eosp) or vocabulary.is_unit(t) for t in reading.targets)


def test_a_unit_is_said_with_its_detail_and_fed_without(vocabulary: SpeechVocabulary) -> None:
    words = [TimedWord("You", 2), TimedWord("are", 3)]
    plain = sequences.answer(vocabulary, [1, 2, 3], words, "text")
    made = sequences.answer(vocabulary, [1 + N_UNITS * 5, 2 + N_UNITS * 6, 3], words, "text")
    assert made.tokens == plain.tokens
    assert [target % vocabulary.size for target in made.targets if target != IGNORED] == [
        target for target in plain.targets if target != IGNORED
    ]
    assert [target // vocabulary.size for target in made.targets if target > vocabulary.size] == [5, 6]


def show_text(vocabulary: SpeechVocabulary, word: str) -> list[str]:
    names = [vocabulary.piece(i).replace(" ", "_") for i in vocabulary.encode(word)]
    return [names[0], *(f"{a}/{b}" for a, b in pairwise(names)), names[-1]]


def test_direct_answer_learns_everything(vocabulary: SpeechVocabulary) -> None:
    made = sequences.answer(vocabulary, [1, 2, 3], [TimedWord("No", 2), TimedWord("I", 3)], "direct")
    assert show(vocabulary, made) == (
        "speechgpt/. ua/n n/o o/sosp sosp/u1 u1/u2 u2/eosp eosp/i i/sosp sosp/u3 u3/eosp eosp/eos eos/."
    )


@pytest.mark.parametrize(
    "words",
    [
        [TimedWord("a", 2), TimedWord("b", 2), TimedWord("c", 3)],
        [TimedWord("\u2603", 3)],
        [TimedWord("a b", 3)],
        [TimedWord("a", 4), TimedWord("b", 5)],
    ],
)
def test_words_without_sound_or_characters_are_refused(vocabulary: SpeechVocabulary, words: list[TimedWord]) -> None:
    with pytest.raises(ValueError, match="no units"):
        sequences.answer(vocabulary, [1, 2, 3], words, "text")


def test_history_keeps_the_last_three_turns(vocabulary: SpeechVocabulary) -> None:
    messages = [Message("system", "you")]
    for text in ("are", "how", "there", "hello"):
        messages += [Message("user", text), Message("assistant", "you"), Message("assistant", " ")]
    made = sequences.history(vocabulary, messages)
    turns = [vocabulary.encode(t) for t in ("how", "there", "hello")]
    you = vocabulary.encode("you")
    expected = [vocabulary.system, *you]
    for turn in turns:
        expected += [vocabulary.human, *turn, vocabulary.eoh]
        expected += [vocabulary.speechgpt, vocabulary.ta, *you, vocabulary.eos]
    assert made.tokens == expected
    assert set(made.targets) == {IGNORED}
    learned = sequences.history(vocabulary, messages, learn_answers=True)
    assert [t for t in learned.targets if t != IGNORED] == [*you, vocabulary.eos] * 3


def test_a_message_that_spells_a_special_token_stays_text(vocabulary: SpeechVocabulary) -> None:
    made = sequences.typed(vocabulary, "<eoh> [SpeechGPT]")
    assert all(vocabulary.text_ids[i] for i in made.tokens[1:-1])
    assert made.tokens[-1] == vocabulary.eoh
