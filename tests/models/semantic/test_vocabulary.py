"""The order of tokens, spelling, folding and files."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.models.errors import CheckpointError, ModelNotFoundError
from speechgpt_gen.models.semantic.vocabulary import SPECIALS, SpeechVocabulary, to_ascii

VOCABULARY = SpeechVocabulary.train_bpe(["the quick brown fox, the lazy dog and the other fox"] * 4, 130)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_text_survives_encoding_up_to_folding(text: str) -> None:
    ids = VOCABULARY.encode(text)
    assert all(0 <= i < VOCABULARY.n_text for i in ids)
    assert VOCABULARY.decode(ids) == to_ascii(text)
    assert ids == [i for word in to_ascii(text).split() for i in VOCABULARY.encode(word)]
    spelled = VOCABULARY.spell(text)
    assert "".join(VOCABULARY.piece(i) for i in spelled) == to_ascii(text).lower().replace(" ", "")
    assert all(VOCABULARY.character_ids[i] for i in spelled)


def test_order() -> None:
    v = VOCABULARY
    assert v.size == v.n_text + 1024 + len(SPECIALS)
    assert (v.unit(0), v.unit(1023)) == (v.n_text, v.n_text + 1023)
    named = [v.pad, v.sosp, v.eosp, v.human, v.speechgpt, v.eoh, v.eos, v.ta, v.ua, v.listen, v.system]
    assert named == list(range(v.n_text + 1024, v.size))
    assert v.unit_index(v.unit(7)) == 7
    assert [v.is_unit(i) for i in (v.n_text - 1, v.unit(0), v.unit(1023), v.pad)] == [False, True, True, False]
    assert v.text_ids.sum() == v.n_text
    assert len(v.encode("the")) == 1, "nothing was learned"
    assert v.decode([v.human, *v.encode("the fox"), v.eoh, v.unit(3)]) == "the fox"


def test_units_outside_the_codebook_are_refused() -> None:
    for wrong in (-1, 1024):
        with pytest.raises(ValueError, match="outside"):
            VOCABULARY.unit(wrong)
    with pytest.raises(ValueError, match="not a semantic unit"):
        VOCABULARY.unit_index(VOCABULARY.pad)


def test_a_unit_may_come_with_its_detail() -> None:
    v = VOCABULARY
    assert v.told(7) == v.unit(7)
    heard = v.told(7 + 1024 * 5)
    assert (heard % v.size, heard // v.size) == (v.unit(7), 5)
    assert v.is_unit(heard)
    assert v.unit_index(heard) == 7 + 1024 * 5
    assert not v.is_unit(v.pad + v.size * 5)
    assert v.decode([*v.encode("the"), heard]) == "the"


def test_folding() -> None:
    assert to_ascii(" Caf\u00e9 \u201cna\u00efve\u201d \u2014 it\u2019s\tStra\u00dfe\u2026\u0000 \u65e5\u672c ") == (
        'Cafe "naive" - it\'s Strasse...'
    )


def test_files(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path)
    loaded = SpeechVocabulary.load(tmp_path)
    assert loaded.encode("The lazy cat") == VOCABULARY.encode("The lazy cat")
    assert loaded.size == VOCABULARY.size
    layout = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps({**layout, "units": 1000}))
    with pytest.raises(CheckpointError, match="does not describe"):
        SpeechVocabulary.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read the vocabulary"):
        SpeechVocabulary.load(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer\.json"):
        SpeechVocabulary.load(tmp_path / "nowhere")
