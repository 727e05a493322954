"""A session with a recognizer: what it reads takes the place of what the model wrote down, and of nothing else."""

from dataclasses import replace

import pytest
import torch

from speechgpt_gen.models.bundle import Bundle
from speechgpt_gen.models.generation import Listener
from speechgpt_gen.models.recognition.reader import LetterReader, ReaderConfig
from speechgpt_gen.models.recognition.recognizer import Recognizer
from speechgpt_gen.models.recognition.word_model import WordModel
from speechgpt_gen.models.semantic import layout
from speechgpt_gen.models.semantic.decoder import LocalDecoder
from speechgpt_gen.models.semantic.grammar import Grammar
from speechgpt_gen.models.semantic.pieces import Transcript
from speechgpt_gen.models.semantic.session import SemanticSession
from speechgpt_gen.models.semantic.vocabulary import N_UNITS
from speechgpt_gen.models.tiny import tiny_bundle


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(2)
    reader = LetterReader(ReaderConfig(dim=16, layers=1, kernel=5, detail=3)).eval()
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return Recognizer(reader, WordModel.fit([("How are you? I am well.", 1.0)], rare=0.0))


@pytest.fixture(scope="module")
def bundle(recognizer: Recognizer) -> Bundle:
    tiny = tiny_bundle()
    return replace(
        tiny, config=replace(tiny.config, restate=True, recognizer=recognizer.reader.config), recognizer=recognizer
    )


def session(bundle: Bundle, *, restate: bool = True, recognizer: Recognizer | None) -> SemanticSession:
    decoder = LocalDecoder(bundle.semantic, Grammar(bundle.vocabulary))
    made = SemanticSession(decoder, restate=restate, recognizer=recognizer)
    made.begin_turn()
    return made


def units(frames: int, seed: int = 1) -> list[int]:
    found = torch.randint(N_UNITS, (frames,), generator=torch.Generator().manual_seed(seed))
    return (found + N_UNITS * (1 + found % 64)).tolist()


def ending(text: str) -> str:
    """The stops that a text ends with."""
    return text[len(text.rstrip(".,?!;:-")) :]


def test_a_turn_is_answered_as_what_the_recognizer_read(bundle: Bundle, recognizer: Recognizer) -> None:
    said, last = units(120), units(30, 5)
    own = session(bundle, recognizer=None)
    own.hear(said)
    (drafted,) = (p.text for p in own.reply("text", None, 0, last) if isinstance(p, Transcript))
    made = session(bundle, recognizer=recognizer)
    early = made.hear(said)
    mark = made.mark()
    pieces = list(made.reply("text", None, 0, last))
    read = recognizer.text(recognizer.hear(recognizer.begin(), [*said, *last]))
    assert read
    expected = read + ending(drafted)
    assert pieces[0] == Transcript(expected)
    assert expected not in (drafted, early), "choose other units: both read the same"
    asked = expected if expected[-1] in ".?!" else expected.rstrip(",;:-") + "."
    told = layout.typed(bundle.vocabulary, asked)
    assert list(made.tokens[: len(told)]) == told
    made.rewind(mark)
    assert list(made.reply("text", None, 0, last)) == pieces, "an answer that is taken back leaves no trace"
    made.rewind(mark)
    made.hear(last)
    assert next(made.reply("text")) == Transcript(expected), "any cutting of the turn gives the same"
    made.begin_turn()
    made.hear(last)
    alone = recognizer.text(recognizer.hear(recognizer.begin(), last))
    first = next(made.reply("text"))
    assert isinstance(first, Transcript)
    assert first.text.rstrip(".,?!;:-") == alone, "of the turn before nothing is left"


@pytest.mark.parametrize(
    ("drafted", "ends"), [("well, yes", ""), ("well, yes?", "?"), ("well...", "..."), ("well,", ",")]
)
def test_whether_a_sentence_ends_is_as_the_model_wrote_it(
    bundle: Bundle, recognizer: Recognizer, drafted: str, ends: str
) -> None:
    """So that who takes turns can tell from the words whether somebody has finished (`agent/session/endpointing.py`);
    what is answered is whole."""
    made = session(bundle, recognizer=recognizer)
    said = units(120)
    made.hear(said)
    made._words = bundle.vocabulary.encode(drafted)
    read = recognizer.text(recognizer.hear(recognizer.begin(), said))
    assert made._understood() == (read + ends, read + ("?" if ends == "?" else "."))


def test_an_answer_without_text_is_to_what_the_model_itself_heard(bundle: Bundle, recognizer: Recognizer) -> None:
    said = units(120)
    made, own = session(bundle, recognizer=recognizer), session(bundle, recognizer=None)
    made.hear(said)
    own.hear(said)
    assert list(made.reply("direct", None, 3)) == list(own.reply("direct", None, 3))


def test_where_the_model_heard_no_words_none_are_made_up(bundle: Bundle, recognizer: Recognizer) -> None:
    deaf = replace(bundle, semantic=tiny_bundle().semantic)
    with torch.no_grad():
        deaf.semantic.lm_head.weight[deaf.vocabulary.listen] *= 40.0
        deaf.semantic.lm_head.weight[deaf.vocabulary.eoh] *= 40.0
    made = session(deaf, recognizer=recognizer)
    said = units(120)
    assert made.hear(said) == ""
    assert next(made.reply("text")) == Transcript("")
    assert recognizer.text(recognizer.hear(recognizer.begin(), said)), "though the recognizer reads something"


def test_a_listener_hears_with_its_bundles_recognizer(bundle: Bundle, recognizer: Recognizer) -> None:
    pcm = 0.1 * torch.randn(40_000, generator=torch.Generator().manual_seed(0)).numpy()
    listener = Listener(bundle)
    listener.listen(pcm)
    (told,) = listener.transcribe()
    assert isinstance(told, Transcript)
    heard = bundle.tokenizer.hear(torch.from_numpy(pcm)[None, None])[0].tolist()
    assert told.text.rstrip(".,?!;:-") == recognizer.text(recognizer.hear(recognizer.begin(), heard))
