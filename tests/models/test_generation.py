"""The two halves of the chain: what the cuts of arriving audio and of units may not change."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.errors import AudioError, EngineError
from speechgpt_gen.models.generation import BlockCutter, Listener, Speaker, speak_units
from speechgpt_gen.models.perceptual.schedule import BlockSchedule
from speechgpt_gen.models.semantic.decoder import LocalDecoder
from speechgpt_gen.models.semantic.grammar import Grammar
from speechgpt_gen.models.semantic.pieces import Message, Piece, Transcript, Unit, Word
from speechgpt_gen.models.semantic.session import SemanticSession


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("tiny")


@pytest.fixture(scope="module")
def listener(bundle: Bundle) -> Listener:
    return Listener(bundle)


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def first(pieces: Iterator[Piece], count: int = 60) -> list[Piece]:
    return [piece for piece, _ in zip(pieces, range(count), strict=False)]


def hear(listener: Listener, *audio: NDArray[np.float32]) -> None:
    for pcm in audio:
        listener.listen(pcm)
        while listener.work():
            pass


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 12_000), max_size=5))
def test_an_answer_does_not_depend_on_how_audio_arrives(listener: Listener, cuts: list[int]) -> None:
    pcm = noise(12_000)
    listener.begin([])
    hear(listener, pcm)
    expected = first(listener.reply(seed=3))
    listener.begin([])
    hear(listener, *np.split(pcm, sorted(cuts)))
    assert first(listener.reply(seed=3)) == expected


@pytest.mark.parametrize(("turns", "told"), [(0, slice(0, 0)), (1, slice(2, 4)), (2, slice(0, 4))])
def test_a_model_is_told_as_many_turns_as_it_takes(bundle: Bundle, turns: int, told: slice) -> None:
    talk = [Message("user", "one"), Message("assistant", "two"), Message("user", "three"), Message("assistant", "four")]
    forgetful = Listener(replace(bundle, config=replace(bundle.config, history_turns=turns)))
    attentive = Listener(bundle)
    for each, history in ((forgetful, talk), (attentive, talk[told])):
        each.begin(history)
        hear(each, noise(12_000))
    expected = first(attentive.reply(seed=3))
    assert first(forgetful.reply(seed=3)) == expected
    assert turns == 2 or first(forgetful.reply(seed=3)) != first(fully_told(bundle, talk).reply(seed=3))


def test_a_model_that_knows_no_instructions_is_told_none(bundle: Bundle) -> None:
    talk = [Message("system", "be brief"), Message("user", "one"), Message("assistant", "two")]
    simple = Listener(replace(bundle, config=replace(bundle.config, instructions=False)))
    attentive = Listener(bundle)
    for each, history in ((simple, talk), (attentive, talk[1:])):
        each.begin(history)
        hear(each, noise(12_000))
    expected = first(attentive.reply(seed=3))
    assert first(simple.reply(seed=3)) == expected
    assert first(simple.reply(seed=3, instructions="speak of ships")) == expected
    assert first(attentive.reply(seed=3, instructions="speak of ships")) != expected


def fully_told(bundle: Bundle, talk: list[Message]) -> Listener:
    made = Listener(bundle)
    made.begin(talk)
    hear(made, noise(12_000))
    return made


@pytest.mark.parametrize("taken", [0, 1, 5, 40])
def test_a_turn_goes_on_where_an_answer_was_closed(listener: Listener, taken: int) -> None:
    pcm = noise(12_000)
    listener.begin([])
    hear(listener, pcm)
    transcript, expected = listener.transcript, first(listener.reply(seed=3))
    listener.begin([])
    hear(listener, pcm[:5_000])
    answer = listener.reply(seed=9)
    first(answer, taken)
    answer.close()
    hear(listener, pcm[5_000:])
    assert listener.transcript == transcript
    assert first(listener.reply(seed=3)) == expected


def test_words_that_end_with_the_turn_are_in_its_transcript(bundle: Bundle, listener: Listener) -> None:
    """What the model writes while it hears the last units, which come with the end of the turn only, counts too."""
    late = 0
    for seed in range(6):
        pcm = noise(7_000, seed)
        listener.begin([])
        hear(listener, pcm)
        before = listener.transcript
        (told,) = (piece.text for piece in listener.transcribe() if isinstance(piece, Transcript))
        session = SemanticSession(LocalDecoder(bundle.semantic, Grammar(bundle.vocabulary)))
        session.begin_turn()
        session.hear(bundle.tokenizer.hear(torch.from_numpy(pcm)[None, None])[0].tolist())
        late += session.transcript != before
        next(session.reply("text"))  # which hears the end
        assert told == session.transcript
        assert listener.transcript == before, "hearing the end is taken back"
    assert late


def test_another_answer_closes_the_one_that_is_open(listener: Listener) -> None:
    listener.begin([])
    hear(listener, noise(4_000))
    expected = first(listener.reply(seed=3))
    left = listener.reply_to("hello", seed=5)
    first(left, 3)
    assert first(listener.reply(seed=3)) == expected
    assert list(left) == []
    assert first(listener.reply(seed=3)) == expected


def test_instructions_take_the_place_of_the_systems(listener: Listener) -> None:
    told = [Message("system", "be brief"), Message("user", "hello"), Message("assistant", "hi")]
    listener.begin(told)
    hear(listener, noise(4_000))
    expected = first(listener.reply(seed=3))
    listener.begin([Message("system", "be long"), *told[1:]])
    hear(listener, noise(4_000))
    other = first(listener.reply(seed=3))
    assert first(listener.reply(seed=3, instructions="be brief")) == expected
    assert first(listener.reply(seed=3)) == other
    assert other != expected


def test_a_message_that_ends_the_history_is_answered_like_a_typed_one(listener: Listener) -> None:
    listener.begin([Message("user", "hello")])
    answered = first(listener.reply(seed=3))
    listener.begin([])
    assert answered == first(listener.reply_to("hello", seed=3))
    with pytest.raises(EngineError, match="nothing to answer"):
        next(listener.reply())


def test_say_speaks_every_word_at_its_frame(listener: Listener) -> None:
    listener.begin([])
    pieces = list(listener.say("Hello there. You are well!", seed=2))
    frames = 0
    words = []
    for piece in pieces:
        if isinstance(piece, Word):
            assert piece.frame == frames
            words.append(piece.text)
        frames += isinstance(piece, Unit)
    assert words == ["Hello", "there.", "You", "are", "well!"]
    assert frames > 0
    assert not any(isinstance(piece, Transcript) for piece in pieces)


def test_a_turn_too_long_for_the_model_is_refused(listener: Listener) -> None:
    listener.begin([])
    listener.listen(noise(int((listener.longest + 1) * 16_000)))
    with pytest.raises(AudioError, match="lasts longer than"):
        listener.work()
    listener.begin([])
    hear(listener, noise(4_000))


@given(units=st.lists(st.integers(0, 1023), max_size=100), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_blocks_are_cut_as_the_schedule_says(units: list[int], sizes: list[int]) -> None:
    schedule = BlockSchedule(tuple(sizes))
    cutter = BlockCutter(schedule)
    blocks = [block for unit in units if (block := cutter.push(unit)) is not None]
    blocks += [rest] if (rest := cutter.finish()) is not None else []
    assert [unit for block in blocks for unit in block] == units
    assert [len(block) for block in blocks] == schedule.lengths(len(units))


def test_detail_is_heard_in_the_sound(bundle: Bundle) -> None:
    speaker, voice = Speaker(bundle), bundle.voice(None)
    units = [3, 5, 8, 13, 21, 34]
    plain = next(speak_units(speaker, units, bundle.config.blocks, voice, 0))
    with_detail = [u + 1024 * 7 for u in units]
    told = next(speak_units(speaker, with_detail, bundle.config.blocks, voice, 0))
    assert plain.units == tuple(units[: plain.end_frame])
    assert told.units == tuple(with_detail[: told.end_frame])
    assert not np.array_equal(told.pcm, plain.pcm)


def test_a_conversion_is_told_all_that_is_heard(bundle: Bundle, listener: Listener) -> None:
    wav = noise(9 * 320)
    listener.begin([])
    listener.listen(wav)
    units = [piece.index for piece in listener.convert() if isinstance(piece, Unit)]
    assert units == bundle.tokenizer.hear(torch.from_numpy(wav)[None, None])[0].tolist()
    assert min(units) >= 1024


def test_utterances_side_by_side_sound_as_alone(bundle: Bundle) -> None:
    speaker, schedule = Speaker(bundle), bundle.config.blocks
    units = [list(range(k, k + 40)) for k in (0, 100)]
    voices = [bundle.voice("first"), bundle.voice("second")]
    alone = [list(speak_units(speaker, units[k], schedule, voices[k], seed=k)) for k in range(2)]
    together: list[list[NDArray[np.float32]]] = [[], []]
    for pair in zip(*(speak_units(speaker, units[k], schedule, voices[k], seed=k) for k in range(2)), strict=True):
        for k, block in enumerate(pair):
            together[k].append(block.pcm)
    for k in range(2):
        np.testing.assert_array_equal(np.concatenate(together[k]), np.concatenate([block.pcm for block in alone[k]]))
