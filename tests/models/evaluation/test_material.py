"""Whose recordings judge, and which."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.evaluation.material import gather

ROWS = (
    ("a.wav", "A trained sentence.", "ann", "sentence", "", "train"),
    ("b.wav", "A held-out sentence.", "ann", "sentence", "", "valid"),
    ("c.wav", "What is held out?", "ann", "question", "p1", "valid"),
    ("d.wav", "This answer.", "ann", "answer", "p1", "valid"),
    ("e.wav", "Bob was never heard.", "bob", "sentence", "", "valid"),
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, *_ in ROWS:
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(16_000), 16_000)
    table = tmp_path / "corpus.tsv"
    lines = ["audio\ttext\tspeaker\tkind\tpair\tsplit", *("\t".join(row) for row in ROWS)]
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.mark.parametrize(
    ("unseen", "speakers", "sentences"),
    [
        (None, "unseen", {"Bob was never heard."}),
        (True, "unseen", {"A trained sentence.", "A held-out sentence.", "This answer.", "Bob was never heard."}),
        (False, "seen", {"A held-out sentence.", "This answer.", "Bob was never heard."}),
    ],
)
def test_who_judges(corpus: Path, unseen: bool | None, speakers: str, sentences: set[str]) -> None:
    found = gather(corpus, 9, 0, {"sentences", "questions"}, unseen=unseen)
    assert found.speakers == speakers
    assert {clip.text for clip in found.sentences} == sentences
    asked = [(clip.text, clip.answers) for clip in found.questions]
    assert asked == ([] if unseen is None else [("What is held out?", ("This answer.",))])


def test_seen_speakers_need_a_corpus_that_holds_recordings_out(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="give --corpus with --seen"):
        gather(None, 9, 0, {"sentences"}, unseen=False)
    corpus.write_text(corpus.read_text().replace("valid", "train"))
    with pytest.raises(ConfigError, match="leave out --seen"):
        gather(corpus, 9, 0, {"sentences"}, unseen=False)
