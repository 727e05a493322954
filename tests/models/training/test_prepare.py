"""A corpus with everything wrong with it: counted, listed, left out, and the rest decoded as it is."""

import io
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.prepare import Limits, prepare, problems_of


def sound(path: Path, seconds: float = 1.0, rate: int = 16_000, level: float = 0.1) -> None:
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, level * np.sin(2 * np.pi * 200 * time), rate)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Two usable recordings and one of each kind that is not."""
    folder = tmp_path / "bad"
    folder.mkdir()
    sound(folder / "good.wav")
    sound(folder / "fast.flac", rate=48_000)
    sound(folder / "telephone.wav", rate=8000)
    sound(folder / "long.wav", seconds=5)
    sound(folder / "untold.wav")
    sound(folder / "short.wav", seconds=0.01)
    sound(folder / "silent.wav", level=0.0)
    sound(folder / "hasty.wav", seconds=0.3)
    (folder / "text.wav").write_text("no sound")
    (folder / "none.wav").write_bytes(b"")
    whole = (folder / "good.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    names = [p.name for p in sorted(folder.iterdir())]
    rows = [f"{name}\t{'' if name == 'untold.wav' else 'Hello there.'}\tann" for name in [*names, "gone.wav"]]
    rows = [row.replace("Hello there.", "Hello. " * 20) if row.startswith("hasty") else row for row in rows]
    (folder / "corpus.tsv").write_text("audio\ttext\tspeaker\n" + "\n".join(rows) + "\n")
    return folder


def test_what_cannot_be_used_is_listed_by_kind(bad: Path, tmp_path: Path) -> None:
    corpus = prepare(bad, tmp_path / "cache", limits=Limits(max_seconds=4), progress=False)
    assert {u.id: u.samples for u in corpus.utterances} == {"good.wav": 16_000, "fast.flac": 16_000}
    problems = {p.id: p.kind for p in problems_of(tmp_path / "cache")}
    assert problems == {
        "telephone.wav": "wrong rate",
        "long.wav": "too long",
        "untold.wav": "no text",
        "short.wav": "empty",
        "silent.wav": "empty",
        "hasty.wav": "wrong text",
        "text.wav": "unreadable",
        "none.wav": "unreadable",
        "cut.wav": "unreadable",
        "gone.wav": "missing",
    }


def test_the_command_counts_them(bad: Path, tmp_path: Path) -> None:
    from speechgpt_gen.agent.cli.train import app

    result = CliRunner().invoke(app, ["prepare", str(bad), "--run", str(tmp_path / "run"), "--max-seconds", "4"])
    assert result.exit_code == 0, result.output
    assert "2 utterances" in result.output
    assert "left out 10: 3 unreadable, 2 empty" in result.output


def test_a_judge_may_refuse_texts(bad: Path, tmp_path: Path) -> None:
    made = prepare(
        bad, tmp_path / "cache", check=lambda r, pcm: "it says no" if r.id == "good.wav" else None, progress=False
    )
    assert "good.wav" not in made.by_id
    assert ("good.wav", "wrong text", "it says no") in {(p.id, p.kind, p.reason) for p in problems_of(made.cache)}


def test_what_is_no_answer_may_be_kept_at_another_rate_as_well(tmp_path: Path) -> None:
    names = ["q.wav", "a.wav", "s.wav", "v.wav"]
    for name in names:
        sound(tmp_path / name)
    kinds = dict(
        zip(names, ["question\tp\ttrain", "answer\tp\ttrain", "sentence\t\ttrain", "sentence\t\tvalid"], strict=True)
    )
    rows = "".join(f"{name}\tHello there.\tann\t{kinds[name]}\n" for name in names)
    (tmp_path / "corpus.tsv").write_text("audio\ttext\tspeaker\tkind\tpair\tsplit\n" + rows)
    corpus = prepare(tmp_path / "corpus.tsv", tmp_path / "cache", rates=(1.25,), progress=False)
    assert {u.id: (u.speaker, u.samples) for u in corpus.utterances} == {
        **dict.fromkeys(names, ("ann", 16_000)),
        "q.wav@1.25": ("ann@1.25", 12_800),
        "s.wav@1.25": ("ann@1.25", 12_800),
    }
    spectrum = np.abs(np.fft.rfft(corpus.audio(corpus.by_id["s.wav@1.25"])))
    assert spectrum.argmax() * 16_000 / 12_800 == pytest.approx(250, abs=2), "200 Hz, higher by a quarter"
    with pytest.raises(ConfigError, match=r"between 0\.5 and 2, not 3"):
        prepare(tmp_path / "corpus.tsv", tmp_path / "cache", rates=(3.0,), progress=False)


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no sound")
    (tmp_path / "x.txt").write_text("Hello.")
    with pytest.raises(ConfigError, match="1 unreadable"):
        prepare(tmp_path, tmp_path / "cache", progress=False)
    with pytest.raises(ConfigError, match="no prepared corpus"):
        Corpus(tmp_path / "cache")


def test_a_run_that_was_stopped_goes_on(bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(bad, tmp_path / "whole", progress=False)
    monkeypatch.setattr("speechgpt_gen.models.training.prepare._FILES_A_PART", 3)
    decoded: Counter[str] = Counter()

    def stop_after_two(recording: object, pcm: object) -> None:
        decoded[str(getattr(recording, "id", ""))] += 1
        if len(decoded) == 3:
            raise KeyboardInterrupt

    def count(recording: object, pcm: object) -> None:
        decoded[str(getattr(recording, "id", ""))] += 1

    with pytest.raises(KeyboardInterrupt):
        prepare(bad, tmp_path / "parts", check=stop_after_two, progress=False)
    again = prepare(bad, tmp_path / "parts", check=count, progress=False)
    assert [u.id for u in again.utterances] == [u.id for u in whole.utterances]
    assert min(decoded.values()) == 1
    for u in whole.utterances:
        np.testing.assert_array_equal(again.audio(again.by_id[u.id]), whole.audio(u))


def test_many_processes_make_what_one_makes(bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechgpt_gen.models.training.prepare._FILES_A_PART", 2)
    one = prepare(bad, tmp_path / "one", progress=False)
    with ThreadPoolExecutor(3) as pool:
        many = prepare(bad, tmp_path / "many", pool=pool, progress=False)
    assert many.utterances == one.utterances
    np.testing.assert_array_equal(many.samples, one.samples)
    assert problems_of(many.cache) == problems_of(one.cache)


def test_a_broken_shard_loses_its_recordings_only(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    rows = ["id\tshard\tspeaker\tkind\tpair\tsplit\ttext"]
    for shard in ("A", "B"):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as archive:
            buffer = io.BytesIO()
            soundfile.write(buffer, 0.1 * np.sin(np.arange(16_000)), 16_000, format="OGG", subtype="OPUS")
            info = tarfile.TarInfo(f"{shard}0.ogg")
            info.size = buffer.getbuffer().nbytes
            buffer.seek(0)
            archive.addfile(info, buffer)
        rows.append(f"{shard}0\t{shard}.tar\tann\tsentence\t\ttrain\tHello there.")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "shards" / "A.tar").write_bytes(b"nothing of a tar")
    made = prepare(tmp_path, tmp_path / "cache", progress=False)
    assert [u.id for u in made.utterances] == ["B0"]
    assert [p.kind for p in problems_of(made.cache)] == ["missing"]


def test_several_corpora_are_taken_as_one(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        sound(folder / f"{folder.name}.wav", seconds=0.5)
        (folder / "corpus.tsv").write_text(f"audio\ttext\tspeaker\n{folder.name}.wav\tHello.\tann\n")
        (folder / "pairs.tsv").write_text(f"pair\tquestion\tanswer\n{folder.name}\tWho?\tNobody.\n")
    corpus = prepare(folders, tmp_path / "cache", progress=False)
    assert [u.id for u in corpus.utterances] == ["a.wav", "b.wav"]
    assert list(corpus.texts) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"a and .*a has the id 'a\.wav' twice"):
        prepare([folders[0], folders[0]], tmp_path / "cache", progress=False)


def test_shards_of_several_corpora_may_have_the_same_name(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for seconds, folder in enumerate(folders, 1):
        (folder / "shards").mkdir(parents=True)
        buffer = io.BytesIO()
        soundfile.write(buffer, np.full(16_000 * seconds, 0.1), 16_000, format="OGG", subtype="OPUS")
        with tarfile.open(folder / "shards" / "S0.tar", "w") as archive:
            info = tarfile.TarInfo(f"{folder.name}.ogg")
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
        header = "id\tshard\tspeaker\tkind\tpair\tsplit\ttext\n"
        (folder / "manifest.tsv").write_text(header + f"{folder.name}\tS0.tar\tann\tsentence\t\ttrain\tHello.\n")
    corpus = prepare(folders, tmp_path / "cache", progress=False)
    assert {u.id: u.samples for u in corpus.utterances} == {"a": 16_000, "b": 32_000}
