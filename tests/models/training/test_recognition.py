"""The recognizer's training: it learns to read, goes on where it was, and counts the words that it may know."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.recognition.letters import characters
from speechgpt_gen.models.recognition.reader import LetterReader, ReaderConfig
from speechgpt_gen.models.recognition.recognizer import Recognizer
from speechgpt_gen.models.semantic.vocabulary import N_UNITS
from speechgpt_gen.models.training import recognition
from speechgpt_gen.models.training.corpus import Corpus, Pair, Utterance
from speechgpt_gen.models.training.extract import Spoken
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.recipe import load_recipe, train_recognizer
from speechgpt_gen.models.training.recognition import RecognizerRecipe

from .test_recipe import RECIPE

SAID = ["the sea is calm", "is the sea green", "calm is the green sea", "what is the sea"]
UNSAID = "a sea that is green"
RECOGNIZER = """
[recognizer]
model = {dim = 16, layers = 1, kernel = 5}
loop = {steps = 2, warmup = 1, save_every = 2, ema = 0.9}
"""
"""What a tiny recipe adds for it."""
RECIPE_OF = RecognizerRecipe(
    ReaderConfig(dim=32, layers=1, kernel=5),
    LoopConfig(steps=150, learning_rate=2e-2, warmup=5, save_every=50, ema=0.9),
    batch_seconds=8.0,
    rare=0.0,
)


def spoken(text: str) -> Spoken:
    """Three frames of each letter's own unit, its detail telling the same, and one of nothing."""
    units = np.array([unit for c in characters(text) for unit in (9 * c, 9 * c, 9 * c, 1000)], np.int16)
    return Spoken(units, [], [], [], 1 + units.astype(np.int64) % 16)


def corpus_of(texts: Sequence[str], held_out: Sequence[str] = ()) -> tuple[Corpus, dict[str, Spoken]]:
    utterances, heard = [], {}
    for n, text in enumerate((*texts, *held_out)):
        heard[f"u{n}"] = spoken(text)
        split = "train" if n < len(texts) else "valid"
        samples = 320 * len(heard[f"u{n}"].units)
        utterances.append(Utterance(f"u{n}", "ann", "sentence", "", split, text, 0, samples))
    made = SimpleNamespace(split=lambda split: [u for u in utterances if u.split == split], texts={})
    return cast(Corpus, made), heard


def test_letters_are_learnt_and_words_are_read(tmp_path: Path) -> None:
    corpus, heard = corpus_of(SAID, [UNSAID])
    reader = recognition.train(corpus, [heard], tmp_path, RECIPE_OF, detail=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    assert rows[-1]["valid_cer"] < 0.2, "a sentence of letters that it has heard"
    recognizer = Recognizer(*recognition.load(tmp_path, reader.config))
    for n, text in enumerate(SAID):
        units = (heard[f"u{n}"].units + N_UNITS * heard[f"u{n}"].detail).tolist()  # type: ignore[operator]
        read = recognizer.text(recognizer.hear(recognizer.begin(), units))
        assert read == text.capitalize()


def test_a_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    corpus, heard = corpus_of(SAID)
    recipe = replace(RECIPE_OF, loop=replace(RECIPE_OF.loop, steps=6, save_every=3))
    whole = recognition.train(corpus, [heard, heard], tmp_path / "whole", recipe, detail=2)
    recognition.train(corpus, [heard, heard], tmp_path / "parts", recipe, detail=2, until=3)
    parts = recognition.train(corpus, [heard, heard], tmp_path / "parts", recipe, detail=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    on = recognition.train(corpus, [heard], tmp_path / "on", recipe, detail=2, start=whole, until=1)
    near = (on.enter.weight - whole.enter.weight).abs().max()
    assert near < 0.05, "it goes on from the reader before"
    with pytest.raises(ConfigError, match="the recognizer to start from is"):
        recognition.train(corpus, [heard], tmp_path / "other", recipe, detail=0, start=whole)


def test_words_are_those_that_training_may_know(tmp_path: Path) -> None:
    corpus, _ = corpus_of(["The sea is calm."], ["Moonlight shone."])
    corpus.texts = {
        "p0": Pair("p0", "train", "Who swims?", "Otters do.", ways=("Name a swimmer.",)),
        "p1": Pair("p1", "valid", "Who flies?", "Eagles do."),
    }
    more = tmp_path / "more.txt"
    more.write_text("A caf\u00e9 opened.\nIt was 1984.\n", encoding="utf-8")
    words = recognition.count_words(corpus, replace(RECIPE_OF, texts=(str(more),)))
    known = set(words.written)
    assert {"sea", "swims", "otters", "swimmer", "cafe", "opened"} <= known
    assert known.isdisjoint({"moonlight", "flies", "eagles", "was"}), "held out, or nothing that is heard so"
    assert words.log_prob((), "swims") > words.log_prob((), "swimmer") > words.log_prob((), "cafe")
    with pytest.raises(ConfigError, match=r"recognizer\.texts: .*nowhere\.txt cannot be read"):
        recognition.count_words(corpus, replace(RECIPE_OF, texts=(str(tmp_path / "nowhere.txt"),)))


def test_a_reader_that_has_no_say_is_refused(tmp_path: Path) -> None:
    (tmp_path / "silent.toml").write_text("restate = false\n")
    with pytest.raises(ConfigError, match="set restate = true"):
        train_recognizer(tmp_path, load_recipe(tmp_path / "silent.toml"))
    (tmp_path / "odd.toml").write_text("[recognizer]\nmodel = {detail = 3}\n")
    with pytest.raises(ConfigError, match=r"recognizer\.model\.detail = 3"):
        load_recipe(tmp_path / "odd.toml")


@pytest.mark.slow
def test_the_stage_ends_in_a_bundle_that_reads(source: Path, tmp_path: Path) -> None:
    """On a corpus of a few seconds, with the tokenizer that its own stage trained."""
    from speechgpt_gen.agent.cli.train import app

    run, config = tmp_path / "run", tmp_path / "tiny.toml"
    prepare(source, run / "corpus", progress=False)
    config.write_text(f"restate = true\n{RECIPE}{RECOGNIZER}")
    options = ["--run", str(run), "--config", str(config)]
    for stage in ("tokenizer", "semantic", "recognizer", "perceptual"):
        result = CliRunner().invoke(app, [stage, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    folder = tmp_path / "model"
    CliRunner().invoke(app, ["export", str(folder), *options], catch_exceptions=False)
    bundle = load_bundle(folder)
    assert bundle.recognizer is not None
    assert bundle.config.recognizer == ReaderConfig(dim=16, layers=1, kernel=5, detail=2)
    assert "calm" in bundle.recognizer.words.written
    assert bundle.info.parameters["recognizer"] == sum(
        p.numel() for p in LetterReader(bundle.config.recognizer).parameters()
    )

    # One that goes on and trains no reader keeps the one it started from.
    on = tmp_path / "on"
    prepare(source, on / "corpus", progress=False)
    more = ["--run", str(on), "--config", str(config), "--start", str(folder)]
    result = CliRunner().invoke(app, ["export", str(tmp_path / "again"), *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    again = load_bundle(tmp_path / "again").recognizer
    assert again is not None
    for name, value in bundle.recognizer.reader.state_dict().items():
        assert torch.allclose(value, again.reader.state_dict()[name], atol=1e-3), name
