"""Who is in which pass, burst and batch: the two loops driven by hand, without their threads."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import Bundle, load_bundle
from speechgpt_gen.models.errors import EngineError
from speechgpt_gen.models.semantic.decoder import Draws, LocalDecoder
from speechgpt_gen.models.semantic.grammar import DecodingLimits, Grammar, Phase
from speechgpt_gen.models.semantic.pieces import Piece
from speechgpt_gen.models.semantic.sampling import SamplingOptions
from speechgpt_gen.models.semantic.session import SemanticSession
from speechgpt_gen.models.semantic.slots import SlotModel, SlotOptions, Start
from speechgpt_gen.models.semantic.vocabulary import N_UNITS
from speechgpt_gen.models.sound import SoundSlots
from speechgpt_gen.streaming.engine.decoding import AHEAD, DecodeLoop
from speechgpt_gen.streaming.engine.generation import LocalGeneration
from speechgpt_gen.streaming.engine.protocol import Request
from speechgpt_gen.streaming.engine.slot_decoder import SlotDecoder, Stream
from speechgpt_gen.streaming.engine.slots import Answer, SpeechJob
from speechgpt_gen.streaming.engine.sounding import SoundLoop


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = load_bundle("tiny")
    made.semantic.fuse_()
    return made


class Recorder(SlotModel):
    """Notes what was asked of it."""

    def prefill(self, chunks):  # type: ignore[no-untyped-def]
        self.passes = [*getattr(self, "passes", []), [(c.slot, len(c.tokens)) for c in chunks]]
        return super().prefill(chunks)

    def burst(self, slots):  # type: ignore[no-untyped-def]
        self.bursts = [*getattr(self, "bursts", []), list(slots)]
        return super().burst(slots)


@pytest.fixture
def loop(bundle: Bundle) -> DecodeLoop:
    # Words that never end: a stream runs until somebody stops it.
    grammar = Grammar(bundle.vocabulary, DecodingLimits(word_characters=10_000))
    options = SlotOptions(4, 200, (1, 2, 4), {1: 4, 2: 4, 4: 2})
    head = bundle.semantic.lm_head.weight
    before = head[bundle.vocabulary.sosp].clone()
    model = Recorder(bundle.semantic, grammar, options, Lane(torch.device("cpu")))
    head.data[bundle.vocabulary.sosp] = 0.0
    head.data[bundle.vocabulary.sosp, 0] = -9.0
    model.capture()
    yield DecodeLoop(model)  # type: ignore[misc]
    head.data[bundle.vocabulary.sosp] = before


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def drawing(pool: ThreadPoolExecutor, loop: DecodeLoop, slot: int, count: int, prompt: int = 3) -> Future[list[int]]:
    """A conversation on a thread that draws so many tokens, then stops."""

    def draw() -> list[int]:
        given = []
        drawn = loop.decoder(slot).draw(0, [1] * prompt, Phase.SPELL_FIRST, Draws(SamplingOptions(), slot))
        for token in drawn:
            given.append(token)
            if len(given) == count:
                break
        drawn.close()  # type: ignore[attr-defined]
        return given

    return pool.submit(draw)


def test_answers_begin_before_others_listen_and_short_passes_are_shared(loop: DecodeLoop) -> None:
    with ThreadPoolExecutor(4) as pool:
        eoh = loop.model.grammar.vocabulary.eoh
        long = pool.submit(loop.decoder(0).score, 0, [1] * 100, [eoh] * 100)
        until(lambda: len(loop._passes) == 1)
        short = pool.submit(loop.decoder(1).score, 0, [1] * 9, [eoh] * 9)
        until(lambda: len(loop._passes) == 2)
        answer = drawing(pool, loop, 2, 1)
        until(lambda: len(loop._passes) == 3)
        for _ in range(4):
            loop.cycle()
        assert len(long.result(10)) == 100
        assert len(short.result(10)) == 9
        assert len(answer.result(10)) == 1
    assert loop.model.passes == [[(2, 3), (1, 9)], [(0, 64)], [(0, 36)]]  # type: ignore[attr-defined]


def test_the_last_units_the_end_of_turn_and_the_first_token_are_one_pass(loop: DecodeLoop) -> None:
    """And the answer is the one that the model alone gives, whether or not words are written on the way."""
    vocabulary = loop.model.grammar.vocabulary
    plain = SemanticSession(LocalDecoder(loop.model.model, loop.model.grammar, loop.capacity))
    session = SemanticSession(loop.decoder(1))
    seen = set()

    def written(of: SemanticSession, last: int) -> int:
        """Text tokens between the last units, and after <eosp>."""
        tokens = list(of.tokens)[2 + 3 :]
        heard = tokens[: tokens.index(vocabulary.eoh)]
        return len(heard) - last - 1

    with ThreadPoolExecutor(1) as pool:
        for last in range(1, 9):

            def answer(of: SemanticSession, units: list[int]) -> list[Piece]:
                of.begin_turn()
                of.hear([1, 2, 3])
                if of is session:
                    loop.model.passes = []  # type: ignore[attr-defined]
                reply = of.reply("text", None, 0, units)
                pieces = [next(reply) for _ in range(4)]
                reply.close()  # type: ignore[attr-defined]
                return pieces

            units = [7 * last + i for i in range(last)]
            wanted = answer(plain, units)
            given = pool.submit(answer, session, units)
            until(lambda given=given: given.done() or (loop.cycle(), False)[1])  # type: ignore[misc]
            assert given.result() == wanted
            assert session.tokens == plain.tokens
            passes = loop.model.passes  # type: ignore[attr-defined]
            assert passes[0] == [(1, last + 4)]  # <eosp> <eoh> [SpeechGPT] [ta] as well
            assert len(passes) == 1 + written(plain, last)
            seen.add(len(passes))
    assert not loop._streams
    assert 1 in seen
    assert len(seen) > 1, "some of them wrote nothing, some did"


def test_a_stream_that_is_taken_up_again_goes_on_from_the_unit_without_its_detail(loop: DecodeLoop) -> None:
    vocabulary, grammar = loop.model.grammar.vocabulary, loop.model.grammar
    stream = Stream(0, Start(5, Phase.WORD_FIRST, Draws(SamplingOptions(), 0)))
    told = [vocabulary.told(7 + N_UNITS * 9), vocabulary.told(8 + N_UNITS * 2)]
    stream.receive(told, grammar, fed=True)
    assert stream.take()[0] == told
    assert (stream.at.token, stream.at.length, stream.at.count) == (vocabulary.unit(8), 7, 2)


def test_every_answer_is_in_every_burst_and_gone_within_one_of_its_end(loop: DecodeLoop) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = [drawing(pool, loop, slot, 1 + 4 * slot) for slot in range(3)]
        until(lambda: len(loop._passes) == 3)
        cycles = 0
        while not all(answer.done() for answer in answers):
            loop.cycle()
            cycles += 1
            taken = 1 + 2 * cycles if cycles > 1 else 1 + 2
            until(lambda taken=taken: all(a.done() or 1 + 4 * s > taken for s, a in enumerate(answers)))  # type: ignore[misc]
        assert [len(answer.result()) for answer in answers] == [1, 5, 9]
    bursts = loop.model.bursts  # type: ignore[attr-defined]
    # The first needs but the token of the pass: whether it is still in the first burst is a race it may win or lose.
    assert [sorted(set(burst) - {0}) for burst in bursts[:2]] == [[1, 2]] * 2
    assert all(0 not in burst for burst in bursts[1:])
    assert not loop._streams


def test_nobody_is_drawn_far_ahead_of_who_listens(loop: DecodeLoop) -> None:
    with ThreadPoolExecutor(1) as pool:
        drawn = loop.decoder(0).draw(0, [1, 2], Phase.SPELL_FIRST, Draws(SamplingOptions(), 1))
        first = pool.submit(next, drawn)
        until(lambda: len(loop._passes) == 1)
        for _ in range(60):
            loop.cycle()
        first.result(10)
        assert AHEAD <= loop._streams[0].unread < AHEAD + 5
        drawn.close()  # type: ignore[attr-defined]
    assert not loop._streams


def test_who_waits_for_a_stopped_thread_is_told(loop: DecodeLoop) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = drawing(pool, loop, 0, 5)
        until(lambda: len(loop._passes) == 1)
        loop.stop()
        with pytest.raises(EngineError, match="stopped"):
            answer.result(10)
        with pytest.raises(EngineError, match="restart"):
            loop.decoder(1).score(0, [1], [5])


def test_time_is_put_down_to_what_it_went_into(loop: DecodeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes 2 s, a burst 3 s, and whoever is not in it waits meanwhile."""
    clock = [10.0]
    monkeypatch.setattr(loop, "_now", lambda: clock[0])
    for name, seconds in (("prefill", 2.0), ("burst", 3.0)):
        make = getattr(loop.model, name)

        def timed(work, make=make, seconds=seconds):  # type: ignore[no-untyped-def]
            clock[0] += seconds
            return make(work)

        monkeypatch.setattr(loop.model, name, timed)
    one, other = loop.decoder(0), loop.decoder(1)

    def draw(decoder: SlotDecoder, count: int) -> dict[str, float]:
        drawn = decoder.draw(0, [1, 2, 3], Phase.SPELL_FIRST, Draws(SamplingOptions(), 1))
        for _ in range(count):
            next(drawn)
        drawn.close()
        return decoder.spent()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(draw, one, 9)  # a pass, then two bursts of four
        until(lambda: len(loop._passes) == 1)
        clock[0] += 5.0
        loop.cycle()
        listening = pool.submit(other.score, 0, [1] * 100, [5] * 100)  # two passes, between the first's bursts
        until(lambda: len(loop._passes) == 1)
        loop.cycle()
        until(first.done)
        loop.cycle()
        listening.result(10)
    assert first.result() == {"queue": 5.0 + 2.0, "prefill": 2.0, "decode": 6.0}
    assert other.spent() == {"queue": 3.0, "prefill": 4.0}
    assert other.spent() == {}


def test_too_much_for_a_slot_is_said_at_once(loop: DecodeLoop) -> None:
    with pytest.raises(EngineError, match="200 positions"):
        loop.decoder(0).feed(0, [1] * 201)


async def test_first_blocks_go_first_and_later_ones_fill_their_batch(bundle: Bundle) -> None:
    sound = SoundSlots(bundle, Lane(torch.device("cpu")), slots=4, buckets=(1, 2, 4))
    sound.capture()
    batches: list[list[int]] = []
    speak = sound.speak

    def noted(blocks):  # type: ignore[no-untyped-def]
        batches.append([slot for slot, _ in blocks])
        return speak(blocks)

    sound.speak = noted  # type: ignore[method-assign]
    loop = SoundLoop(sound, 4)
    now = 0.0
    answers = [
        Answer(LocalGeneration(number, Request(), lambda: now, lambda: None), bundle.voice(None), seed=number)
        for number in range(4)
    ]
    slot_of: dict[int, int] = {}
    for number in (0, 1, 2):  # three begin, a second apart
        now = float(number)
        loop.speak(SpeechJob(answers[number], (), 0))
        loop.speak(SpeechJob(answers[number], (1,) * 5, 0))
        loop.cycle()
        slot_of[number] = batches[-1][0]
    for number in (0, 1, 2):  # and one goes on farther than the others
        loop.speak(SpeechJob(answers[number], (1,) * 10, 1))
        loop.speak(SpeechJob(answers[number], (1,) * 10, 2))
    loop.speak(SpeechJob(answers[3], (), 0))
    loop.speak(SpeechJob(answers[3], (1,) * 5, 0))
    loop.cycle()
    newest = batches[-1][0]
    assert batches[-1] == [newest], "a first block waits for no later one"
    assert newest not in slot_of.values()
    loop.cycle()
    assert batches[-1] == [slot_of[0], slot_of[1], slot_of[2]], "the sound that runs out first is made first"
    answers[1].generation.cancel()
    loop.cycle()
    assert batches[-1] == [slot_of[0], slot_of[2]], "who hung up is in no batch any more"
    assert slot_of[1] in loop._free
    await asyncio.sleep(0)
