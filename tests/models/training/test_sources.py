"""Corpora as people have them, read into recordings."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechgpt_gen.models.errors import AudioError, ConfigError
from speechgpt_gen.models.training.sources import held_out, read_source


def sound(path: Path, seconds: float = 0.5, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.1 * np.sin(2 * np.pi * 200 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, tone, rate)


def test_librispeech(tmp_path: Path) -> None:
    folder = tmp_path / "test-clean" / "61" / "70968"
    sound(folder / "61-70968-0000.flac")
    (folder / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n")
    (found,) = read_source(tmp_path)
    assert (found.speaker, found.text, found.split) == ("61", "he began a confused complaint", "valid")
    assert len(found.load()) == 8000
    assert held_out([found]) == [found]


def test_mls(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    sound(folder / "audio" / "4800" / "10003" / "4800_10003_000000.flac")
    (folder / "transcripts.txt").write_text("4800_10003_000000\toh my dear\n")
    (found,) = read_source(tmp_path)
    assert (found.speaker, found.text) == ("4800", "oh my dear")
    assert len(found.load()) == 8000


def test_vctk(tmp_path: Path) -> None:
    sound(tmp_path / "wav48_silence_trimmed" / "p225" / "p225_001_mic1.flac", rate=48_000)
    (tmp_path / "txt" / "p225").mkdir(parents=True)
    (tmp_path / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.\n")
    (found,) = read_source(tmp_path)
    assert (found.speaker, found.text, len(found.load())) == ("p225", "Please call Stella.", 8000)


def test_a_folder_of_recordings_with_texts(tmp_path: Path) -> None:
    sound(tmp_path / "ann" / "one.wav")
    (tmp_path / "ann" / "one.txt").write_text("Hello there.\n")
    sound(tmp_path / "bob" / "two.ogg")
    found = read_source(tmp_path)
    assert [(r.id, r.speaker, r.text) for r in found] == [("ann/one", "ann", "Hello there."), ("bob/two", "bob", "")]


def test_a_table_keeps_a_question_and_its_answer_on_one_side(tmp_path: Path) -> None:
    rows = ["audio\ttext\tspeaker\tkind\tpair"]
    for n in range(400):
        rows += [f"q{n}.wav\tWhy?\tann\tquestion\tp{n}", f"a{n}.wav\tBecause.\tbob\tanswer\tp{n}"]
    (tmp_path / "corpus.tsv").write_text("\n".join(rows) + "\n")
    found = read_source(tmp_path)
    sides = {r.pair: {s.split for s in found if s.pair == r.pair} for r in found}
    assert all(len(side) == 1 for side in sides.values())
    assert {r.split for r in found} == {"train", "valid"}
    assert [r.split for r in read_source(tmp_path)] == [r.split for r in found]
    with pytest.raises(AudioError, match="does not exist"):
        found[0].load()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("audio\ttext\n", "lacks the columns speaker"),
        ("audio\ttext\tspeaker\na.wav\tx\ty\na.wav\tx\ty\n", "'a.wav' twice"),
        ("audio\ttext\tspeaker\tkind\na.wav\tx\ty\tsong\n", "line 2: kind is 'song'"),
        ("audio\ttext\tspeaker\tsplit\na.wav\tx\ty\tlater\n", "line 2: split is 'later'"),
        ("audio\ttext\tspeaker\n", "holds no recording"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text(table)
    with pytest.raises(ConfigError, match=message):
        read_source(tmp_path)


def test_no_corpus_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds no recording"):
        read_source(tmp_path)
