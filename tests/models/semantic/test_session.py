"""The session against a decoder that feeds token by token without a cache, and against itself cut in other ways."""

import copy
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.kernels.linear import quantize_linears_
from speechgpt_gen.models.errors import EngineError, TextError
from speechgpt_gen.models.semantic import layout, sequences
from speechgpt_gen.models.semantic.cache import KVCache
from speechgpt_gen.models.semantic.decoder import Draws, LocalDecoder
from speechgpt_gen.models.semantic.grammar import DecodingLimits, Grammar, Phase
from speechgpt_gen.models.semantic.llama import SemanticConfig, SemanticModel
from speechgpt_gen.models.semantic.pieces import Message, Piece, Text, Transcript, Unit, Word
from speechgpt_gen.models.semantic.sampling import SamplingOptions
from speechgpt_gen.models.semantic.sequences import TimedWord
from speechgpt_gen.models.semantic.session import SemanticSession
from speechgpt_gen.models.semantic.vocabulary import N_UNITS, SpeechVocabulary

VOCABULARY = SpeechVocabulary.train_bpe(["hello there how are you today"] * 3, 110)
LIMITS = DecodingLimits(
    word_frames=9, text_tokens=12, words=4, word_characters=3, unit_tokens=4, final_tokens=3, listen_bias=2.4
)
LIVELY = SamplingOptions(temperature=1.0, text_temperature=1.0, top_k=0, top_p=1.0)
HISTORY = [Message("user", "hello"), Message("assistant", "you")]


@cache
def model() -> SemanticModel:
    torch.manual_seed(3)
    config = SemanticConfig(
        vocab_size=VOCABULARY.size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        max_position_embeddings=512,
        detail=2,
    )
    made = SemanticModel(config).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    torch.nn.init.normal_(made.model.embed_detail.weight, std=0.2)  # type: ignore[union-attr]
    # A random model would hardly ever draw these among so many others.
    often = {VOCABULARY.eosp: 6.0, VOCABULARY.ua: 2.5, VOCABULARY.sosp: 3.5, VOCABULARY.eos: 3.0}
    bias = torch.zeros(VOCABULARY.size)
    bias[[i for i in range(VOCABULARY.n_text) if VOCABULARY.piece(i).startswith(" ")]] = 1.5
    bias[list(often)] = torch.tensor(list(often.values()))
    made.lm_head.bias = torch.nn.Parameter(bias)
    return made


def session_on(model: SemanticModel, limits: DecodingLimits = LIMITS, capacity: int = 0) -> SemanticSession:
    return SemanticSession(LocalDecoder(model, Grammar(VOCABULARY, limits), capacity))


def new_session(limits: DecodingLimits = LIMITS, capacity: int = 0) -> SemanticSession:
    return session_on(model(), limits, capacity)


def cache_of(session: SemanticSession) -> KVCache:
    """What the model remembers, cut to what the session says it does."""
    assert isinstance(session._decoder, LocalDecoder)
    session._settle()
    session._decoder.cache.rewind(len(session.tokens))
    return session._decoder.cache


def some_units(n: int, seed: int = 0) -> list[int]:
    """With detail, every other one."""
    units = torch.randint(0, 1024, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [unit + 1024 * (1 + unit % 16) * (place % 2) for place, unit in enumerate(units)]


def written_one_by_one(history: Sequence[int], units: Sequence[int], final: bool) -> tuple[list[int], str]:
    """Tokens and transcript of a turn by whole forward passes, one token at a time."""
    tokens = [*history, *layout.open_speech(VOCABULARY)]
    words: list[int] = []
    given = [*map(VOCABULARY.told, units), *([VOCABULARY.eosp] if final else [])]
    for heard, token in enumerate(given, start=1):
        tokens.append(token)
        last = token == VOCABULARY.eosp
        stop, bias, most = (VOCABULARY.eoh, 0.0, 3) if last else (VOCABULARY.listen, 2.4, 4)
        for _ in range(most):
            if not last and len(words) >= 4 + heard // 4:
                break
            with torch.inference_mode():
                logits = model()(torch.tensor([tokens]))[0, -1]
            text = int(logits[: VOCABULARY.n_text].argmax())
            if logits[text] <= logits[stop] + bias:
                break
            tokens.append(text)
            words.append(text)
    return tokens, VOCABULARY.decode(words)


def cut(values: Sequence[int], sizes: Iterable[int]) -> list[Sequence[int]]:
    parts, at = [], 0
    for size in sizes:
        parts.append(values[at : at + size])
        at += size
    return [*parts, values[at:]]


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 25), max_size=6), n=st.integers(1, 60), history=st.booleans())
def test_any_cutting_of_a_turn_equals_one_by_one(sizes: list[int], n: int, history: bool) -> None:
    units = some_units(n)
    messages = HISTORY if history else []
    expected, transcript = written_one_by_one(layout.history(VOCABULARY, messages), units, final=False)
    session = new_session()
    session.begin_turn(messages)
    new = [session.hear(part) for part in cut(units, sizes)]
    assert "".join(new) == session.transcript == transcript
    assert list(session.tokens) == expected
    with torch.inference_mode():  # what is remembered is right too: go on from it
        following = model()(torch.tensor([[VOCABULARY.pad]]), cache_of(session))[0, -1]
        torch.testing.assert_close(
            following, model()(torch.tensor([[*expected, VOCABULARY.pad]]))[0, -1], atol=1e-4, rtol=1e-4
        )


def test_the_random_model_is_an_interesting_one() -> None:
    """Otherwise the tests here would pass for a session that never writes, never stops or never ends a word."""
    session = new_session()
    session.begin_turn()
    session.hear(some_units(60))
    written = [t for t in session.tokens[2:] if not VOCABULARY.is_unit(t)]
    assert 5 < len(written) < 19
    lengths = set()
    for seed in range(6):
        mark = session.mark()
        pieces = list(session.reply("direct", LIVELY, seed))
        session.rewind(mark)
        ends = [p.frame for p in pieces if isinstance(p, Word)]
        lengths |= {b - a for a, b in pairwise(ends)}
    assert len(lengths) > 3
    assert min(lengths) >= 1
    assert max(lengths) <= LIMITS.word_frames


@settings(max_examples=8, deadline=None)
@given(
    before=st.integers(1, 30),
    after=st.integers(0, 30),
    pulled=st.integers(0, 40),
    mode=st.sampled_from(["text", "direct"]),
    seed=st.integers(0, 1000),
)
def test_an_answer_that_was_not_wanted_leaves_no_trace(
    before: int, after: int, pulled: int, mode: layout.Mode, seed: int
) -> None:
    units = some_units(before + after, seed)
    plain = new_session()
    plain.begin_turn(HISTORY)
    plain.hear(units)
    expected = list(plain.reply(mode, LIVELY, seed))
    session = new_session()
    session.begin_turn(HISTORY)
    session.hear(units[:before])
    mark = session.mark()
    early = session.reply(mode, LIVELY, seed + 1)
    for _ in range(pulled):
        next(early, None)
    session.rewind(mark)
    assert session.mark() == mark
    session.hear(units[before:])
    assert list(session.reply(mode, LIVELY, seed)) == expected
    assert session.tokens == plain.tokens


def test_rewind_restores_even_what_was_forgotten() -> None:
    session = new_session()
    session.begin_turn(HISTORY)
    session.hear(some_units(20))
    mark = session.mark()
    expected = list(session.reply("text", LIVELY, 4))
    session.begin_turn([])
    list(session.say("Hello there.", LIVELY, 1))
    session.rewind(mark)
    assert session.mark() == mark
    assert list(session.reply("text", LIVELY, 4)) == expected


def spoken_of(pieces: Sequence[Piece]) -> tuple[list[tuple[str, int]], list[int]]:
    words = [(p.text, p.frame) for p in pieces if isinstance(p, Word)]
    return words, [p.index for p in pieces if isinstance(p, Unit)]


@pytest.mark.parametrize("mode", ["text", "direct"])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_fed_is_the_training_layout(mode: layout.Mode, seed: int) -> None:
    """Build the training sequence of what came out: its tokens are what went in, and every target could be drawn."""
    units = some_units(25, seed)
    session = new_session()
    session.begin_turn(HISTORY)
    session.hear(units)
    heard_tokens = list(session.tokens)
    pieces = list(session.reply(mode, LIVELY, seed))
    words, answered = spoken_of(pieces)
    assert session.ended == "completed" or mode == "direct" or len([p for p in pieces if isinstance(p, Text)]) == 12
    ends = [frame for _, frame in words[1:]] + [len(answered)]
    timed = [TimedWord(word, end) for (word, _), end in zip(words, ends, strict=True)]
    tokens = list(session.tokens)
    start = len(tokens) - 1 - tokens[::-1].index(VOCABULARY.speechgpt)
    made = sequences.answer(VOCABULARY, answered, timed, mode)
    if mode == "text":
        # The model's own pieces of a word need not be the tokenizer's: compare from where the units begin.
        own, built = (t[t.index(VOCABULARY.ua) :] for t in (tokens[start:], made.tokens))
        assert own == built
        planned = "".join(p.text for p in pieces if isinstance(p, Text))
        assert " ".join(word for word, _ in words) == " ".join(planned.split())
        assert tokens[start : start + 2] == made.tokens[:2]
    else:
        assert [*tokens[start:], *([] if tokens[-1] == VOCABULARY.eos else [VOCABULARY.eos])] == made.tokens
    closing = sequences.heard(VOCABULARY, [], []).tokens[2:]
    between = [t for t in tokens[len(heard_tokens) : start] if t >= VOCABULARY.n_text]
    assert between == closing
    assert heard_tokens[: len(layout.history(VOCABULARY, HISTORY)) + 3] == [
        *sequences.history(VOCABULARY, HISTORY).tokens,
        *sequences.heard(VOCABULARY, units[:1], [], final=False).tokens,
    ]


@pytest.mark.parametrize("mode", ["text", "direct"])
def test_only_units_stand_between_sosp_and_eosp(mode: layout.Mode) -> None:
    for seed in range(8):
        session = new_session()
        session.begin_turn()
        session.hear(some_units(5, seed))
        pieces = list(session.reply(mode, LIVELY, seed))
        tokens = list(session.tokens)
        answer = tokens[tokens.index(VOCABULARY.speechgpt) :]
        answer = answer[answer.index(VOCABULARY.ua) + 1 :]
        inside, length = False, 0
        for token in answer:
            if inside:
                assert VOCABULARY.is_unit(token) or (token == VOCABULARY.eosp and length)
                length += 1
                inside = token != VOCABULARY.eosp
            else:
                assert VOCABULARY.character_ids[token] or token in (VOCABULARY.sosp, VOCABULARY.eos)
                inside, length = token == VOCABULARY.sosp, 0
        frames = 0
        for piece in pieces:
            if isinstance(piece, Word):
                assert piece.frame == frames
            frames += isinstance(piece, Unit)


@pytest.mark.parametrize("mode", ["text", "direct"])
def test_what_is_said_has_detail_and_the_model_goes_on_from_the_units_alone(mode: layout.Mode) -> None:
    session = new_session()
    session.begin_turn()
    session.hear(some_units(5))
    before = len(session.tokens)
    units = [piece.index for piece in session.reply(mode, LIVELY, 2) if isinstance(piece, Unit)]
    fed = [token for token in session.tokens[before:] if VOCABULARY.is_unit(token)]
    assert [VOCABULARY.unit(unit % N_UNITS) for unit in units][: len(fed)] == fed
    assert len(fed) >= len(units) - 1 > 2
    detail = {unit // N_UNITS for unit in units}
    assert min(detail) >= 1
    assert max(detail) <= 4**2
    assert len(detail) > 1


@pytest.mark.parametrize("mode", ["text", "direct"])
def test_the_seed_decides(mode: layout.Mode) -> None:
    def answer(seed: int) -> list[Piece]:
        session = new_session()
        session.begin_turn()
        return list(session.reply_to("how are you", mode, LIVELY, seed))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_a_light_model_holds_a_conversation_and_repeats_itself() -> None:
    light = quantize_linears_(copy.deepcopy(model()).fuse_())
    assert isinstance(light, SemanticModel)

    def answer() -> list[Piece]:
        session = session_on(light)
        session.begin_turn(HISTORY)
        session.hear(some_units(12))
        return list(session.reply("direct", LIVELY, 5))

    pieces = answer()
    assert pieces == answer()
    assert sum(isinstance(p, Unit) for p in pieces) >= 3


def test_a_common_history_is_not_computed_again() -> None:
    session = new_session()
    session.begin_turn(HISTORY)
    kept = layout.history(VOCABULARY, HISTORY)
    cache_of(session).keys[:, :, : len(kept)].fill_(7.0)  # would not survive being fed again
    session.begin_turn([*HISTORY, Message("user", "how"), Message("assistant", "today")])
    assert (cache_of(session).keys[:, :, : len(kept)] == 7.0).all()
    assert (cache_of(session).keys[:, :, len(kept) : len(session.tokens)] != 7.0).all()


def test_say_speaks_every_word_sentence_by_sentence() -> None:
    session = new_session(DecodingLimits(word_frames=4))
    session.begin_turn(HISTORY)
    pieces = list(session.say("It's 5. Really: \u201cyes\u201d!", LIVELY, 3))
    words, units = spoken_of(pieces)
    assert [word for word, _ in words] == ["It's", "five.", "Really:", "yes!"]
    assert "".join(p.text for p in pieces if isinstance(p, Text)) == "It's five. Really: yes!"
    assert words[-1][1] < len(units) <= 16
    alone = list(new_session(DecodingLimits(word_frames=4)).say("It's five.", LIVELY, 3))
    assert pieces[: len(alone)] == alone, "what was said before made a difference"
    with pytest.raises(TextError):
        next(session.say("...", None, 0))


def test_a_typed_turn_replaces_what_was_heard() -> None:
    session, plain = new_session(), new_session()
    session.begin_turn(HISTORY)
    plain.begin_turn(HISTORY)
    session.hear(some_units(9))
    assert list(session.reply_to("how", "text", LIVELY, 1)) == list(plain.reply_to("how", "text", LIVELY, 1))
    expected = [*layout.history(VOCABULARY, HISTORY), *layout.typed(VOCABULARY, "how")]
    assert list(session.tokens[: len(expected)]) == expected


def test_the_whole_transcript_comes_first() -> None:
    units = some_units(30, 2)
    expected, transcript = written_one_by_one([], units, final=True)
    session = new_session()
    session.begin_turn()
    early = session.hear(units)
    pieces = list(session.reply("text", LIVELY, 0))
    assert len(transcript) > len(early), "choose other units: the model writes nothing at the end of these"
    assert pieces[0] == Transcript(transcript)
    assert list(session.tokens[: len(expected)]) == expected


def test_a_turn_that_is_restated_is_answered_as_if_typed() -> None:
    units = some_units(30, 2)
    _, transcript = written_one_by_one(layout.history(VOCABULARY, HISTORY), units, final=True)
    session = SemanticSession(LocalDecoder(model(), Grammar(VOCABULARY, LIMITS)), restate=True)
    session.begin_turn(HISTORY)
    early = session.hear(units[:20])
    mark = session.mark()
    pieces = list(session.reply("text", LIVELY, 3, units[20:]))
    told = [*layout.history(VOCABULARY, HISTORY), *layout.typed(VOCABULARY, transcript)]
    told += layout.open_answer(VOCABULARY, "text")
    assert list(session.tokens[: len(told)]) == told
    assert [p.text for p in pieces if isinstance(p, Transcript)] == [transcript]
    decoder = LocalDecoder(model(), Grammar(VOCABULARY, LIMITS))
    drawn = [token for token in decoder.draw(0, told, Phase.TEXT_FIRST, Draws(LIVELY, 3)) if token != VOCABULARY.ua]
    assert list(session.tokens[len(told) : len(told) + len(drawn)]) == drawn
    session.rewind(mark)
    assert list(session.reply("text", LIVELY, 3, units[20:])) == pieces, "and taken back like any answer"
    session.rewind(mark)
    more = session.hear(units[20:])
    plain = new_session()
    plain.begin_turn(HISTORY)
    assert (early + more, session.tokens) == (plain.hear(units), plain.tokens), "the turn goes on where it was"
    session.rewind(mark)
    direct = list(session.reply("direct", LIVELY, 3, units[20:]))
    assert session.tokens[: len(mark.tokens)] == mark.tokens, "an answer without a text is to what was heard"
    assert direct


def test_what_nothing_was_understood_of_is_not_restated() -> None:
    mute = DecodingLimits(unit_tokens=0, final_tokens=0)
    session, plain = (
        SemanticSession(LocalDecoder(model(), Grammar(VOCABULARY, mute)), restate=restate) for restate in (True, False)
    )
    answers = []
    for each in (session, plain):
        each.begin_turn()
        each.hear(some_units(9))
        answers.append(list(each.reply("text", LIVELY, 1)))
    assert answers[0] == answers[1]


class Babbler(SemanticModel):
    """Says the same for ever: the worst that training can do."""

    def __init__(self, favourite: int) -> None:
        super().__init__(model().config)
        self.favourite = favourite
        self.eval()

    def hidden(self, tokens: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        return super().hidden(tokens, *args, **kwargs) * 0  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["text", "direct"])
@pytest.mark.parametrize("favourite", ["a text token", "a unit", "eosp"])
def test_a_model_that_never_stops_is_stopped(mode: layout.Mode, favourite: str) -> None:
    token = {"a text token": VOCABULARY.encode("you")[0], "a unit": VOCABULARY.unit(3), "eosp": VOCABULARY.eosp}[
        favourite
    ]
    babbler = Babbler(token)
    head = torch.nn.Linear(32, VOCABULARY.size)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[token] = 50.0
    babbler.lm_head = head
    session = session_on(babbler, LIMITS, 512)
    session.begin_turn(HISTORY)
    session.hear(some_units(40))
    assert len(session.tokens) < 80
    words, units = spoken_of(list(session.reply(mode, SamplingOptions(), 0)))
    assert 1 <= len(words) <= 12
    assert len(words) <= len(units) <= 9 * len(words)


@pytest.mark.parametrize("mode", ["text", "direct"])
@pytest.mark.parametrize("capacity", range(70, 110, 4))
def test_a_full_memory_ends_the_answer(mode: layout.Mode, capacity: int) -> None:
    session = new_session(capacity=capacity)
    session.begin_turn(HISTORY)
    session.hear(some_units(20))
    list(session.reply(mode, LIVELY, 1))
    assert len(session.tokens) <= capacity
    said_all = session.tokens[-1] == VOCABULARY.eos or len(session.tokens) > capacity - 2  # no room to close it
    assert session.ended == "length" or said_all


def test_too_long_a_turn_is_an_error() -> None:
    session = new_session(capacity=40)
    session.begin_turn()
    with pytest.raises(EngineError, match="40 positions"):
        session.hear(some_units(60))


def test_turns_are_kept_apart() -> None:
    session = new_session()
    session.begin_turn()
    with pytest.raises(EngineError, match="nothing was heard"):
        next(session.reply("text"))
    session.hear(some_units(3))
    next(session.reply("text"))
    for call in (
        lambda: session.hear([1]),
        lambda: next(session.reply("text")),
        lambda: next(session.reply_to("a", "text")),
    ):
        with pytest.raises(RuntimeError, match="has been answered"):
            call()
    session.begin_turn()
    session.hear(some_units(3))
    assert session.transcript == written_one_by_one([], some_units(3), final=False)[1]


def test_history_is_shortened_to_fit() -> None:
    session = new_session(capacity=60)
    long = [Message("user", "hello there how"), Message("assistant", "you are today")] * 3
    session.begin_turn(long)
    kept = list(session.tokens)
    assert 0 < len(kept) <= 30
    assert kept == layout.history(VOCABULARY, long)[-len(kept) :]
    assert kept[0] == VOCABULARY.human
