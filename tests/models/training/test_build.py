"""A corpus made by a text-to-speech engine: here one that hums."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.sources import rows_of
from speechgpt_gen.models.training.synthesis import build as module
from speechgpt_gen.models.training.synthesis.build import Plan, build
from speechgpt_gen.models.training.synthesis.engines import ENGINES, finish
from speechgpt_gen.models.training.synthesis.kokoro import (
    HELD_OUT,
    WHISPERED,
    SpeakerRecipe,
    english_voices,
    mixtures,
    read_speakers,
)


class Hum:
    """Hums as long as the text is; can't say "brrr"."""

    name = "hum"
    speakers = ("low", "high")
    said: list[str] = []  # noqa: RUF012

    def speak(self, text: str, speaker: str, speed: float = 1.0) -> tuple[NDArray[np.float32], int]:
        if "brrr" in text:
            raise ConfigError("cannot say brrr")
        self.said.append(text)
        time = np.arange(round((1 + 0.05 * len(text)) * 22_050 / speed)) / 22_050
        pitch = 120 if speaker == "low" else 240
        return (0.2 * np.sin(2 * np.pi * pitch * time)).astype(np.float32), 22_050


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setitem(ENGINES, "hum", Hum)
    monkeypatch.setattr(module, "_SHARD", 8)
    Hum.said.clear()
    module._engines.cache_clear()
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "pairs.tsv").write_text("question\tanswer\tsplit\nWhy?\tBecause.\ttrain\nWho?\tNobody.\tvalid\n")
    sentences = "".join(f"The sea is calm on day {n}.\n" for n in range(9))
    (texts / "sentences.tsv").write_text("text\n" + sentences + "Say brrr.\n")
    return Plan(texts, ("hum",), answerer="high", turns=False, nothing=2)


def test_a_corpus_is_made_that_training_reads(plan: Plan, tmp_path: Path) -> None:
    made, left_out = build(plan, tmp_path / "corpus", progress=False)
    assert (made, left_out) == (2 * 2 + 1 + 9 + 2, 1)
    corpus = prepare(tmp_path / "corpus", tmp_path / "cache", progress=False)
    assert len(corpus.utterances) == made
    read = [(q.text, a.text, a.speaker) for q, a in corpus.pairs() if q.split == "valid"]
    assert read == [("Who?", "Nobody.", "high")]
    assert len(list(corpus.pairs())) == 3, "the first question has a second reading"
    assert sum(u.kind == "nothing" and u.text == "" for u in corpus.utterances) == 2
    assert {r.speaker for r in read_speakers(tmp_path / "corpus" / "speakers.tsv")} == {"low", "high"}


def test_what_is_there_is_not_made_again(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    build(plan, folder, progress=False)
    before = (folder / "manifest.tsv").read_text()
    shards = sorted(folder.glob("shards/*.tsv"))
    assert len(shards) > 1
    shards[0].unlink()
    Hum.said.clear()
    build(plan, folder, progress=False)
    assert 0 < len(Hum.said) <= 8
    assert (folder / "manifest.tsv").read_text() == before
    with pytest.raises(ConfigError, match="another plan"):
        build(replace(plan, seed=1), folder, progress=False)


def test_dialogues_bring_their_earlier_turns(plan: Plan, tmp_path: Path) -> None:
    build(replace(plan, turns=True, texts=None, most=40), tmp_path / "corpus", progress=False)
    pairs = {row["pair"]: row for row in rows_of(tmp_path / "corpus" / "pairs.tsv", ("pair", "history"))}
    corpus = prepare(tmp_path / "corpus", tmp_path / "cache", progress=False)
    assert set(corpus.texts) == set(pairs), "those that nobody read too"
    assert len(corpus.texts) > len(corpus.utterances)
    assert any(p.before for p in corpus.texts.values())
    for pair in corpus.texts.values():
        assert [m.role for m in pair.before[:2]] == (["user", "assistant"] if pair.before else [])
        assert " | ".join(m.text for m in pair.before) == pairs[pair.pair]["history"]


def test_exercises_are_learnt_as_text_and_read_by_nobody(plan: Plan, tmp_path: Path) -> None:
    build(replace(plan, exercises=2), tmp_path / "corpus", progress=False)
    corpus = prepare(tmp_path / "corpus", tmp_path / "cache", progress=False)
    made = [pair for pair in corpus.texts.values() if pair.pair.startswith("x")]
    assert len(made) > 50
    assert all(pair.split == "train" and pair.answer for pair in made)
    assert not any(u.pair.startswith("x") for u in corpus.utterances)


def test_a_corpus_to_listen_to_asks_training_questions_in_other_words(plan: Plan, tmp_path: Path) -> None:
    assert plan.texts is not None
    rows = "math.half\tWhat is half of six?\tThree.\ttrain\nmath.half\tWhat is half of two?\tOne.\tvalid\n"
    (plan.texts / "pairs.tsv").write_text("template\tquestion\tanswer\tsplit\n" + rows)
    build(plan, tmp_path / "first", progress=False)
    (plan.texts / "sentences.tsv").write_text("id\ttext\nmore0\tThe sea is calm.\n")
    made, _ = build(replace(plan, reworded=1000, exercises=1), tmp_path / "second", progress=False)
    fewer, _ = build(replace(plan, reworded=9, exercises=1), tmp_path / "third", progress=False)
    assert made > fewer == 9 + 1
    both = prepare([tmp_path / "first", tmp_path / "second"], tmp_path / "cache", progress=False)
    more = [u for u in both.utterances if u.id.endswith("w")]
    assert {(u.kind, u.split) for u in more} == {("question", "train")}
    assert len({u.pair for u in more}) == made - 1, "one reading of a pair"
    for u in more:
        pair = both.texts[u.pair]
        assert u.text == pair.question if u.pair.startswith("x") else u.text in pair.ways
    assert not any(u.pair == "p00001" for u in more), "what is held out is not asked"
    assert both.by_id["more0"].kind == "sentence"
    assert {u.pair for u in more} > {"p00000"}
    with pytest.raises(ConfigError, match="other words"):
        build(replace(plan, texts=None, reworded=9), tmp_path / "fourth", progress=False)


def test_speakers_are_mixed_of_all_voices_but_those_that_judge() -> None:
    names = ["af_sky", "bm_daniel", "ef_dora", "zm_yunxi", WHISPERED, *HELD_OUT]
    made = mixtures(names, 60, seed=1)
    assert made == mixtures(names, 60, seed=1) != mixtures(names, 60, seed=2)
    assert len({recipe.speaker for recipe in made}) == 60
    assert {recipe.kind for recipe in made} == {"extra", "cross", "cross_rs"}
    assert {recipe.voice_a for recipe in made} == {"af_sky", "bm_daniel", "ef_dora", "zm_yunxi"}
    assert {recipe.voice_b for recipe in made} == {"af_sky", "bm_daniel"}
    for recipe in made:
        assert recipe.phonemes == ("en-gb" if recipe.voice_b == "bm_daniel" else "en-us")
        assert (recipe.resample != 1.0) == (recipe.kind == "cross_rs")


def test_recordings_are_trimmed_and_not_too_loud() -> None:
    tone = 2.0 * np.sin(2 * np.pi * 300 * np.arange(24_000) / 24_000)
    pcm = finish(np.concatenate([np.zeros(12_000), tone, np.zeros(36_000)]).astype(np.float32), 24_000)
    assert len(pcm) / 16_000 == pytest.approx(1.25, abs=0.03)
    assert np.abs(pcm).max() == pytest.approx(0.85, abs=0.01)
    with pytest.raises(ConfigError, match="silence"):
        finish(np.zeros(24_000, np.float32), 24_000)


def test_speakers_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "speakers.tsv"
    path.write_text(
        "speaker\tkind\tvoice_a\tvoice_b\tt\tresample\tphonemes\n"
        "af_sky\treal\taf_sky\t-\t-\t1.0\ten-us\nex01\textra\taf_aoede\tbf_lily\t1.24\t1.0\ten-gb\n"
    )
    assert read_speakers(path) == [
        SpeakerRecipe("af_sky", voice_a="af_sky"),
        SpeakerRecipe("ex01", "extra", "af_aoede", "bf_lily", 1.24, 1.0, "en-gb"),
    ]
    assert read_speakers(path)[1].voices == ("af_aoede", "bf_lily")
    path.write_text(path.read_text() + "x\tsong\ta\t-\t-\t1.0\ten-us\n")
    with pytest.raises(ConfigError, match="line 4"):
        read_speakers(path)
    assert english_voices(["af_nicole", "bm_lewis", "ff_siwis", "af_sky"]) == ["af_sky", "bm_lewis"]
