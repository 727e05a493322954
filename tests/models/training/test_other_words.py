"""Other words for what is asked: the slots of a question go into them, and what is held out stays held out."""

import re
import tomllib
from pathlib import Path

import pytest

from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.synthesis import other_words
from tests.models.training.test_prepare import sound


def tables() -> list[tuple[str, dict[str, list[str]]]]:
    text = Path(other_words.__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return list(other_words._flat(tomllib.loads(text)))


@pytest.mark.parametrize(("name", "table"), tables(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_slot_can_be_filled_from_every_known_wording(name: str, table: dict[str, list[str]]) -> None:
    assert set(table) == {"known", "ask"}
    assert all(text.isascii() and text == text.strip() for text in table["known"] + table["ask"])
    assert len(set(table["ask"])) == len(table["ask"])
    slots = [set(re.findall(r"\{(\w+)\}", known)) for known in table["known"]]
    for way in table["ask"]:
        assert all(set(re.findall(r"\{(\w+)\}", way)) <= found for found in slots), way


def test_a_question_is_asked_in_other_words_with_what_it_asks_about() -> None:
    ways = other_words.other_words("math.double", "What is double sixty-four?")
    assert len(ways) > 5
    assert all("sixty-four" in way.lower() and "{" not in way and way[:1].isupper() for way in ways)
    assert other_words.other_words("math.double", "Something else?") == []
    assert other_words.other_words("my.own", "What is double sixty-four?") == []


def test_a_corpus_learns_them_but_for_what_is_held_out(tmp_path: Path) -> None:
    known, *ways = ("What is double ten?", *other_words.other_words("math.double", "What is double ten?"))
    sound(tmp_path / "a.wav")
    (tmp_path / "corpus.tsv").write_text("audio\ttext\tspeaker\na.wav\tHello.\tann\n")
    rows = [("p0", "train", known), ("p1", "valid", ways[0].upper()), ("p2", "valid", known)]
    lines = [f"{pair}\tmath.double\t{split}\t{question}\tTwenty.\n" for pair, split, question in rows]
    (tmp_path / "pairs.tsv").write_text("pair\ttemplate\tsplit\tquestion\tanswer\n" + "".join(lines))
    corpus = prepare(tmp_path, tmp_path / "cache", progress=False)
    assert {p.pair: p.ways for p in corpus.texts.values()} == {"p0": tuple(ways[1:]), "p1": (), "p2": ()}
    assert Corpus(tmp_path / "cache").texts == corpus.texts
