"""What the semantic model is trained on: earlier turns where a pair has some, questions in other words and misheard,
silence where nothing was said."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from speechgpt_gen.models.semantic.pieces import Message
from speechgpt_gen.models.semantic.sequences import IGNORED, Labelled
from speechgpt_gen.models.semantic.vocabulary import N_UNITS, SpeechVocabulary
from speechgpt_gen.models.training.corpus import Corpus, Pair, Utterance
from speechgpt_gen.models.training.documents import Builder, Document, PackedBatches, documents
from speechgpt_gen.models.training.extract import Spoken
from speechgpt_gen.models.training.semantic_recipe import SemanticRecipe

TEXTS = {"q0": "What is my name?", "a0": "You are Ada.", "q1": "Is it late?", "a1": "Yes it is.", "n0": ""}
KINDS = {"q": "question", "a": "answer", "n": "nothing"}
TOLD = (Message("user", "I am Ada."), Message("assistant", "Hello Ada."))


@pytest.fixture
def corpus() -> Corpus:
    utterances = [
        Utterance(name, "ann", KINDS[name[0]], name[1], "train", text, 0, 320 * 40) for name, text in TEXTS.items()
    ]
    pairs = [
        Pair("0", "train", TEXTS["q0"], TEXTS["a0"], TOLD),
        Pair("1", "train", TEXTS["q1"], TEXTS["a1"], ways=("Late now?",)),
    ]
    made = SimpleNamespace(utterances=utterances, split=lambda _: utterances, texts={p.pair: p for p in pairs})
    return cast(Corpus, made)


@pytest.fixture
def spoken(corpus: Corpus) -> dict[str, Spoken]:
    rng = np.random.default_rng(0)
    made = {}
    for u in corpus.utterances:
        words = u.text.split()
        ends = [40 * (i + 1) // len(words) for i in range(len(words))]
        made[u.id] = Spoken(rng.integers(N_UNITS, size=40).astype(np.int16), words, ends, ends)
    return made


@pytest.fixture
def vocabulary() -> SpeechVocabulary:
    return SpeechVocabulary.train_bpe(TEXTS.values(), size=130)


def recipe(**changes: Any) -> SemanticRecipe:
    plain = {"row_tokens": 300, "rows": 1, "typed": 0.0, "direct": 0.0, "read_question": 0.0, "history": 0.0}
    return SemanticRecipe(**{**plain, **changes})


def test_a_pair_that_follows_something_is_always_told_it(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe()
    pool = documents(corpus, spoken, vocabulary, settings, "train")
    builder = Builder(corpus, spoken, vocabulary, settings)
    first, second = (builder.build(d, np.random.default_rng(1)) for d in pool if d.kind == "dialogue")
    assert vocabulary.decode(first.tokens).startswith("I am Ada. Hello Ada.")
    assert "Ada" not in vocabulary.decode(second.tokens)
    for document in pool:
        assert len(builder.build(document, np.random.default_rng(2))) <= document.length


def test_other_turns_come_before_as_many_conversations_as_asked(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe(history=0.5, chat=200)
    pool = [d for d in documents(corpus, spoken, vocabulary, settings, "train") if d.pair is corpus.texts["1"]]
    builder = Builder(corpus, spoken, vocabulary, settings)
    assert 70 < sum(bool(d.earlier) for d in pool) < 130
    for document in pool:
        made = builder.build(document, np.random.default_rng(0))
        assert len(made) <= document.length <= settings.row_tokens
        assert made.tokens.count(vocabulary.human) == len(document.earlier) + 1
        answers = [*(turn.answer for turn in document.earlier), "Yes it is."]
        learnt = [target for target in made.targets if target != IGNORED and target < vocabulary.n_text]
        assert vocabulary.decode(learnt).endswith(" ".join(answers) if document.kind == "chat" else answers[-1])


def test_a_pair_comes_as_text_alone_as_often_as_asked(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe(chat=3)
    pool = documents(corpus, spoken, vocabulary, settings, "train")
    chats = [d for d in pool if d.kind == "chat" and d.pair is corpus.texts["1"]]
    assert len(chats) == 3
    made = Builder(corpus, spoken, vocabulary, settings).build(chats[0], np.random.default_rng(0))
    assert len(made) <= chats[0].length
    assert not any(map(vocabulary.is_unit, made.tokens))
    asked = [target for target in made.targets if target != IGNORED]
    assert asked == [*vocabulary.encode("Yes it is."), vocabulary.ua]


def test_a_typed_question_comes_in_other_words_and_misheard(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    first, second = corpus.texts.values()

    def asked(pair: Pair, **changes: Any) -> set[str]:
        builder = Builder(corpus, spoken, vocabulary, recipe(**changes))
        return {builder.question(pair, np.random.default_rng(n)) for n in range(40)}

    assert asked(second) == {"Is it late?", "Late now?"}
    assert asked(second, other_words=0.0) == {"Is it late?"}
    assert asked(first) == {"What is my name?"}
    heard = asked(second, other_words=0.0, misheard=0.5)
    assert "Is it late?" in heard
    assert len(heard) > 3
    assert all("is" in text.lower().split() and "it" in text.split() for text in heard), "the answer repeats them"
    assert len({len(text.split()) for text in heard}) > 1
    longest = len(vocabulary.encode("Is it late?"))
    assert max(len(vocabulary.encode(text)) for text in heard) <= longest


def test_a_pair_that_nobody_recorded_is_learnt_as_text(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    corpus.texts["2"] = Pair("2", "train", "Who are you?", "Nova.")
    corpus.utterances.remove(corpus.utterances[3])
    kinds = [(d.kind, d.pair.pair) for d in documents(corpus, spoken, vocabulary, recipe(chat=1), "train") if d.pair]
    assert kinds == [("dialogue", "0"), ("plan", "1"), ("chat", "0"), ("chat", "1"), ("chat", "2")]


def test_sentences_are_read_and_pairs_are_heard_as_often_as_asked(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    sentence = replace(corpus.utterances[1], kind="sentence")
    corpus.utterances.append(sentence)
    settings = recipe(chat=1, dialogue=0.0, read=3)
    pool = documents(corpus, spoken, vocabulary, settings, "train")
    kinds = [d.kind for d in pool]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"chat": 2, "plan": 2, "write": 2, "read": 3}
    (plan,) = (d for d in pool if d.kind == "plan" and d.heard is corpus.utterances[2])
    made = Builder(corpus, spoken, vocabulary, settings).build(plan, np.random.default_rng(0))
    assert len(made) <= plan.length
    assert sum(map(vocabulary.is_unit, made.tokens)) == 40, "the question sounds, the answer does not"
    answer = [*vocabulary.encode("Yes it is."), vocabulary.ua]
    assert [target for target in made.targets if target != IGNORED][-len(answer) :] == answer
    kinds = [d.kind for d in documents(corpus, spoken, vocabulary, recipe(chat=0), "train")]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"dialogue": 2, "write": 2, "read": 1}


@pytest.mark.parametrize("speaker", ["ann", "ann@1.1"])
def test_who_is_heard_only_is_written_down_and_answered_and_never_read(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary, speaker: str
) -> None:
    corpus.utterances.append(replace(corpus.utterances[1], kind="sentence"))
    corpus.utterances = [replace(u, speaker=speaker) for u in corpus.utterances]
    settings = recipe(chat=0, read=2, read_question=1.0)
    everything = [(d.kind, d.heard, d.spoken) for d in documents(corpus, spoken, vocabulary, settings, "train")]
    heard_only = replace(settings, heard_only=("ann",))
    kept = [(d.kind, d.heard, d.spoken) for d in documents(corpus, spoken, vocabulary, heard_only, "train")]
    assert kept == [made for made in everything if made[0] != "read"]
    assert [kind for kind, _, _ in kept] == ["dialogue", "dialogue", "write", "write"]


def test_a_question_that_is_restated_is_written_down_and_answered_as_it_was_understood(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe(restated=1.0, chat=0, dialogue=1.0)
    understood = {"q1": "Is it a light that is long and late?"}
    pool = documents(corpus, spoken, vocabulary, settings, "train", understood=understood)
    builder = Builder(corpus, spoken, vocabulary, settings)
    made = [builder.build(d, np.random.default_rng(0)) for d in pool]
    assert all(len(each) <= d.length for each, d in zip(made, pool, strict=True))
    texts = {
        (d.kind, d.heard.id if d.heard else ""): vocabulary.decode(m.tokens) for d, m in zip(pool, made, strict=True)
    }
    assert set(texts) == {("write", "q0"), ("write", "q1"), ("write", "n0"), ("dialogue", "")}
    typed = [each for each, d in zip(made, pool, strict=True) if d.kind == "dialogue"]
    assert vocabulary.decode(typed[0].tokens).startswith("I am Ada. Hello Ada. What is my name? You are Ada.")
    assert vocabulary.decode(typed[1].tokens).startswith(understood["q1"] + " Yes it is.")
    for each in typed:  # of units there are only those of the answer
        assert sum(map(vocabulary.is_unit, each.tokens)) == 40

    plain = documents(corpus, spoken, vocabulary, recipe(chat=0), "train", understood=understood)
    assert [d.kind for d in plain if d.heard and d.heard.kind == "question"] == ["dialogue", "dialogue"]


def test_a_word_is_spelled_before_it_begins_to_sound(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    spoken["a0"] = Spoken(spoken["a0"].units, ["You", "are", "Ada."], [2, 20, 40], [2, 20, 40])
    builder = Builder(corpus, spoken, vocabulary, recipe(ahead=4))
    made = builder.spoken_answer(corpus.utterances[1], "text", learn_text=False)
    text = "".join("u" if vocabulary.is_unit(t) else "|" if t == vocabulary.eosp else "" for t in made.tokens)
    # The first word ends too soon for that, and keeps a frame; the last ends with the sound.
    assert list(map(len, text.split("|"))) == [1, 15, 24, 0]


def test_nothing_said_is_a_turn_without_a_word(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe()
    (document,) = (
        d for d in documents(corpus, spoken, vocabulary, settings, "train") if d.heard is corpus.utterances[4]
    )
    made = Builder(corpus, spoken, vocabulary, settings).build(document, np.random.default_rng(0))
    asked = [target for target in made.targets if target != IGNORED]
    assert asked == [vocabulary.listen] * 40 + [vocabulary.eoh]


def test_documents_of_a_row_do_not_see_each_other(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe(unit_noise=0.5)
    pool = documents(corpus, spoken, vocabulary, settings, "train")
    batches = PackedBatches(Builder(corpus, spoken, vocabulary, settings), pool, settings)
    clean = PackedBatches(batches.builder, pool, recipe())
    batch, quiet = batches[0], clean[0]
    number, mask = batch.document[0], batch.mask()[0, 0]
    assert len(set(number.tolist()) - {-1}) > 1
    for row in range(0, len(number), 7):
        assert set(number[mask[row]].tolist()) == {int(number[row])}
        assert not mask[row, row + 1 :].any()
    noisy = batch.tokens != quiet.tokens
    assert noisy.any()
    assert ((quiet.tokens[noisy] >= vocabulary.n_text) & (quiet.tokens[noisy] < vocabulary.n_text + N_UNITS)).all()
    assert (batch.targets == quiet.targets).all()


@pytest.mark.parametrize("noise", ["near_units", "lost_units"])
def test_what_is_heard_may_be_blurred_and_its_targets_are_not(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary, noise: str
) -> None:
    (document,) = (
        d for d in documents(corpus, spoken, vocabulary, recipe(), "train") if d.heard is corpus.utterances[4]
    )
    plain, blurred = (
        Builder(corpus, spoken, vocabulary, settings).build(document, np.random.default_rng(0))
        for settings in (recipe(), recipe(**{noise: 1.0}))
    )
    assert blurred.targets == plain.targets
    apart = [(a, b) for a, b in zip(blurred.tokens, plain.tokens, strict=True) if a != b]
    assert len(apart) > 20
    assert all(vocabulary.n_text <= token < vocabulary.n_text + N_UNITS for pair in apart for token in pair)


def test_detail_is_heard_as_often_as_asked_and_always_to_be_said(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    told = {name: replace(s, detail=np.arange(1, 41)) for name, s in spoken.items()}
    pool = documents(corpus, told, vocabulary, recipe(), "train")
    dialogue = next(d for d in pool if d.kind == "dialogue")
    sentence = next(d for d in pool if d.heard is corpus.utterances[4])

    def built(without: float, document: Document = dialogue) -> Labelled:
        return Builder(corpus, told, vocabulary, recipe(without_detail=without)).build(
            document, np.random.default_rng(0)
        )

    made, plain = built(0.0), built(1.0)
    detail = [token // vocabulary.size for token in made.tokens]
    assert [number for number in detail if number] == list(range(1, 41)), "of the question, not of the answer"
    said = [target // vocabulary.size for target in made.targets if target > vocabulary.size]
    assert said == list(range(1, 41)), "of the answer"
    assert [token % vocabulary.size for token in made.tokens] == plain.tokens
    assert made.targets == plain.targets
    often = Builder(corpus, told, vocabulary, recipe(without_detail=0.5))
    rng = np.random.default_rng(0)
    with_detail = sum(max(often.build(sentence, rng).tokens) > vocabulary.size for _ in range(200))
    assert 70 < with_detail < 130


def test_noise_takes_the_detail_too_and_what_is_only_heard_is_no_target(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    told = {name: replace(s, detail=np.arange(1, 41)) for name, s in spoken.items()}
    settings = recipe(unit_noise=1.0, loss="all")
    builder = Builder(corpus, told, vocabulary, settings)
    batch = PackedBatches(builder, documents(corpus, told, vocabulary, settings, "train"), settings)[0]
    assert batch.tokens.max() < vocabulary.size
    quiet = PackedBatches(builder, documents(corpus, told, vocabulary, settings, "train"), recipe(loss="all"))[0]
    assert quiet.tokens.max() > vocabulary.size
    said, fed = quiet.targets[:, :-1], quiet.tokens[:, 1:]
    assert (said > vocabulary.size).any()
    assert (fed[said > vocabulary.size] == (said % vocabulary.size)[said > vocabulary.size]).all()
    heard = quiet.tokens[:, 1:] > vocabulary.size
    assert (quiet.targets[:, :-1][heard] == (quiet.tokens[:, 1:] % vocabulary.size)[heard]).any()


def test_what_was_told_is_remembered_over_other_turns_and_a_pronoun_is_not(
    corpus: Corpus, spoken: dict[str, Spoken], vocabulary: SpeechVocabulary
) -> None:
    settings = recipe(history=1.0, chat=50)
    told = replace(corpus.texts["0"], before=(Message("user", "I am Ada."), Message("assistant", "Hello Ada.")))
    asked = replace(told, before=(Message("user", "Is she Ada?"), Message("assistant", "Yes.")))
    unrelated = replace(corpus.texts["1"], question="Is it so?")
    for pair, apart in ((told, True), (asked, False)):
        corpus.texts = {"0": pair, "1": unrelated}
        pool = [d for d in documents(corpus, spoken, vocabulary, settings, "train") if d.pair is pair]
        assert any(d.earlier for d in pool)
        assert any(d.between for d in pool) is apart
        for d in pool:
            made = Builder(corpus, spoken, vocabulary, settings).build(d, np.random.default_rng(0))
            assert len(made) <= d.length
            assert len(d.earlier) + len(d.between) in (1, 2)
            before = vocabulary.decode(made.tokens).partition(pair.before[0].text)
            assert before[0].count("Is it so?") == len(d.earlier)
            assert before[2].count("Is it so?") == len(d.between)
