"""What a model writes down of questions that it hears: by its own session, once, and kept where it tells something."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from speechgpt_gen.models.bundle import Bundle
from speechgpt_gen.models.semantic.decoder import LocalDecoder
from speechgpt_gen.models.semantic.grammar import Grammar
from speechgpt_gen.models.semantic.pieces import Transcript
from speechgpt_gen.models.semantic.session import SemanticSession
from speechgpt_gen.models.semantic.vocabulary import N_UNITS
from speechgpt_gen.models.speech_tokenizer.detail import DETAIL_LEVELS
from speechgpt_gen.models.tiny import tiny_bundle
from speechgpt_gen.models.training.corpus import Corpus, Utterance
from speechgpt_gen.models.training.extract import Spoken
from speechgpt_gen.models.training.saving import UnsavedError
from speechgpt_gen.models.training.understood import understood
from tests.models.training.test_recipe import room_for

TEXT = "what is half of four"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def corpus() -> Corpus:
    kinds = ["question", "question", "question", "answer", "sentence"]
    utterances = [Utterance(f"u{n}", "ann", kind, "0", "train", TEXT, 0, 320 * 30) for n, kind in enumerate(kinds)]
    made = SimpleNamespace(split=lambda split: utterances if split == "train" else [])
    return cast(Corpus, made)


@pytest.fixture
def spoken(corpus: Corpus, bundle: Bundle) -> dict[str, Spoken]:
    rng = np.random.default_rng(0)
    made = {}
    for u in corpus.split("train"):
        units = rng.integers(N_UNITS, size=30).astype(np.int16)
        made[u.id] = Spoken(
            units, [], [], [], rng.integers(1, DETAIL_LEVELS**bundle.semantic.config.detail + 1, size=30)
        )
    return made


def written(path: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}


@torch.inference_mode()
def heard(bundle: Bundle, s: Spoken) -> str:
    """The same unit by unit, as a conversation hears it."""
    assert s.detail is not None
    session = SemanticSession(LocalDecoder(bundle.semantic, Grammar(bundle.vocabulary)))
    session.begin_turn()
    for unit, detail in zip(s.units, s.detail, strict=True):
        session.hear([int(unit) + N_UNITS * int(detail)])
    (text,) = (piece.text for piece in session.reply("text") if isinstance(piece, Transcript))
    return text


def test_questions_are_written_down_as_a_conversation_hears_them(
    corpus: Corpus, spoken: dict[str, Spoken], bundle: Bundle, tmp_path: Path
) -> None:
    understood(tmp_path / "lines", bundle, corpus, spoken)
    found = written(tmp_path / "lines")
    assert found == {f"u{n}": heard(bundle, spoken[f"u{n}"]) for n in range(3)}
    assert any(found.values())


def test_what_was_written_down_is_not_heard_again_and_half_a_line_is(
    corpus: Corpus, spoken: dict[str, Spoken], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    understood(path, bundle, corpus, spoken)
    whole = written(path)
    path.write_text(json.dumps({"id": "u0", "text": "kept"}) + '\n{"id": "u1", "te')
    understood(path, bundle, corpus, spoken)
    assert written(path) == whole | {"u0": "kept"}


def test_a_full_disk_is_told_of_in_one_line_and_what_was_heard_stays(
    corpus: Corpus, spoken: dict[str, Spoken], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    path.write_text(json.dumps({"id": "u0", "text": "kept"}) + "\n")
    with room_for(40), pytest.raises(UnsavedError, match="make room, and run it again") as error:
        understood(path, bundle, corpus, spoken)
    assert "\n" not in str(error.value)
    understood(path, bundle, corpus, spoken)
    assert written(path).keys() == {"u0", "u1", "u2"}
    assert written(path)["u0"] == "kept"


def test_what_lacks_most_of_the_words_is_left_out(
    corpus: Corpus, spoken: dict[str, Spoken], bundle: Bundle, tmp_path: Path
) -> None:
    lines = {"u0": "What is, half before?", "u1": "What is for", "u2": ""}
    path = tmp_path / "lines"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in lines.items()))
    assert understood(path, bundle, corpus, spoken) == {"u0": lines["u0"]}
