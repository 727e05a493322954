"""Stage one: units that are kept keep their meaning, layers that are held stay, and sounds are no words."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoder, SemanticEncoderConfig
from speechgpt_gen.models.training import semantic_units
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.semantic_units import SemanticUnitsConfig

ENCODER = SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2, window=8, lookahead=2, detail=2)
CONFIG = SemanticUnitsConfig(ENCODER, LoopConfig(steps=3, warmup=1, save_every=2), batch_seconds=6.0)


@pytest.fixture
def corpus(source: Path, tmp_path: Path) -> Corpus:
    return prepare(source, tmp_path / "corpus", progress=False)


def test_a_sound_without_words_has_no_part_in_the_loss_of_recognition(corpus: Corpus, tmp_path: Path) -> None:
    plain = semantic_units.train(corpus, tmp_path / "plain", CONFIG)
    corpus.utterances.append(replace(corpus.utterances[0], id="n0", kind="nothing", pair="", text=""))
    with_sound = semantic_units.train(corpus, tmp_path / "with-sound", CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), with_sound.parameters(), strict=True))


def test_units_keep_their_meaning_as_much_as_they_are_told_to(corpus: Corpus, tmp_path: Path) -> None:
    config = replace(CONFIG, encoder=replace(CONFIG.encoder, detail=0))
    loop = replace(config.loop, steps=25, learning_rate=1e-2)
    with pytest.raises(ConfigError, match="--start"):
        semantic_units.train(corpus, tmp_path / "of-nobody", replace(config, keep=1.0))
    torch.manual_seed(0)
    start = SemanticEncoder(config.encoder).eval()
    wav = torch.from_numpy(corpus.audio(corpus.by_id["u2"]))[None]
    moved = []
    for keep in (1e-3, 1e3):
        settings = replace(config, keep=keep, reading_steps=2, speed=0.5, clean=0.5, loop=loop)
        made = semantic_units.train(corpus, tmp_path / f"keep-{keep}", settings, start=start, budget=600.0)
        read = torch.load(tmp_path / f"keep-{keep}" / "reader" / "checkpoint.pt", weights_only=True)["module"]
        for name, value in made.reader.state_dict().items():
            assert torch.equal(value, read[f"reader.{name}"]), name
        torch.testing.assert_close(made.encoder.spread.running_mean, start.spread.running_mean)
        before, after = (e.digits(e.hidden(e.mel_frames(wav))) for e in (start, made.encoder))
        moved.append(float((before - after).detach().abs().mean()))
    assert 0 < 3 * moved[1] < moved[0]

    # A reader that learns along leaves what it had learnt of the units as they were, and their spread is that of now.
    settings = replace(config, keep=0.1, reader_learns=True, reading_steps=2, loop=loop)
    made = semantic_units.train(corpus, tmp_path / "along", settings, start=start)
    read = torch.load(tmp_path / "along" / "reader" / "checkpoint.pt", weights_only=True)["module"]
    assert not torch.equal(made.reader.characters.weight, read["reader.characters.weight"])
    assert not torch.equal(made.encoder.spread.running_mean, start.spread.running_mean)


def test_an_encoder_of_another_shape_takes_the_place_of_one_whose_units_are_kept(
    corpus: Corpus, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = SemanticEncoder(CONFIG.encoder).eval()
    larger = replace(CONFIG, encoder=replace(CONFIG.encoder, layers=2, block=4))
    with pytest.raises(ConfigError, match="another shape"):
        semantic_units.train(corpus, tmp_path / "freely", larger, start=start)
    wav = torch.from_numpy(corpus.audio(corpus.by_id["u2"]))[None]
    apart = []
    for steps in (1, 40):
        loop = replace(CONFIG.loop, steps=steps, learning_rate=1e-2)
        settings = replace(larger, keep=1e3, reading_steps=2, clean=1.0, loop=loop)
        made = semantic_units.train(corpus, tmp_path / f"{steps}", settings, start=start).encoder.eval()
        before, after = (e.quantizer.bound(e.digits(e.hidden(e.mel_frames(wav)))) for e in (start, made))
        apart.append(float((before - after).detach().square().mean()))
    assert apart[1] < 0.7 * apart[0]


def test_layers_that_are_held_stay_as_they_are(corpus: Corpus, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = SemanticEncoder(replace(CONFIG.encoder, layers=2))
    held = replace(CONFIG, encoder=start.config, hold=1, loop=replace(CONFIG.loop, learning_rate=1e-2))
    made = semantic_units.train(corpus, tmp_path / "held", held, start=start).encoder
    for name, value in start.named_parameters():
        stays = name.startswith(("front.", "transformer.layers.0.", "detail."))
        assert torch.equal(made.get_parameter(name), value) == stays, name
