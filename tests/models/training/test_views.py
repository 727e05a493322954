"""What stage one hears, and what it need not hear twice."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoder, SemanticEncoderConfig
from speechgpt_gen.models.training import semantic_units
from speechgpt_gen.models.training.batches import BucketBatches
from speechgpt_gen.models.training.corpus import Corpus, Utterance
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.saving import UnsavedError
from speechgpt_gen.models.training.semantic_units import SemanticUnitsConfig
from speechgpt_gen.models.training.views import Heard, HeardOnce, views
from tests.models.training.test_recipe import room_for

ENCODER = SemanticEncoderConfig(bands=20, dim=32, layers=2, heads=2, window=8, lookahead=2, block=4)
LOOP = LoopConfig(steps=6, warmup=1, save_every=2)
CONFIG = SemanticUnitsConfig(ENCODER, LOOP, batch_seconds=6.0, speed=0.5, clean=0.5, hold=1, hear_hours=3 / 3600)


@pytest.fixture(scope="module")
def corpus(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(source, tmp_path_factory.mktemp("views") / "corpus", progress=False)


def test_what_is_heard_may_be_clean_and_said_at_another_speed() -> None:
    wav, samples, rng = torch.randn(4, 50 * 320) * 0.1, [50 * 320] * 4, np.random.default_rng(0)
    said, heard, frames = views(wav, samples, rng, clean=1.0)
    assert torch.equal(said, wav)
    assert torch.equal(heard, wav)
    assert frames.tolist() == [50] * 4
    said, heard, frames = views(wav, samples, rng, speed=1.0)
    assert said.shape == heard.shape == (4, 320 * int(frames.max()))
    assert len(set(frames.tolist()) - {50}) > 1
    assert not torch.equal(said, heard)
    said, _, frames = views(wav, samples, rng, pitch=1.0)
    assert frames.tolist() == [50] * 4
    assert not torch.equal(said, wav)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_an_encoder_may_be_run_in_two_parts(layers: int) -> None:
    encoder = SemanticEncoder(ENCODER).eval()
    mel = encoder.mel_frames(torch.randn(2, 31 * 320))
    whole = encoder.hidden(mel, 7)
    assert torch.equal(encoder.upper(encoder.lower(mel, layers, 7), layers, 7), whole)
    assert not torch.equal(encoder.hidden(mel), whole), "a later start is another signal to sinusoids and blocks"


def test_batches_are_heard_once_and_come_again_in_another_order(tmp_path: Path) -> None:
    said = [Utterance(f"u{n}", "ann", "sentence", "", "train", "a", 0, 16_000) for n in range(40)]
    batches, heard = BucketBatches([u.frames for u in said], 200, 50, seed=3), list[int]()

    def hear(number: int) -> Heard:
        heard.append(number)
        some = torch.randn(2, 5, 3)
        return Heard(
            some, some, torch.tensor([5, 4]), torch.tensor(number), torch.zeros(0, dtype=torch.int64), some[:0], some
        )

    again = HeardOnce(tmp_path, batches, said, 24 / 3600, hear)
    assert again.count == 6, "24 s are six batches of four seconds"
    epochs = [[again.number(6 * epoch + at) for at in range(6)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    first = [again(number) for number in epochs[0]]
    later = HeardOnce(tmp_path, batches, said, 24 / 3600, hear)
    for number, one in zip(epochs[0], first, strict=True):
        other = later(number)
        assert other.first == number
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))
    assert heard == epochs[0]
    assert HeardOnce(tmp_path, batches, said, 1.0, hear).count == batches.per_epoch


def test_what_was_kept_of_something_else_is_heard_anew(corpus: Corpus, tmp_path: Path) -> None:
    start = SemanticEncoder(ENCODER)
    semantic_units.train(corpus, tmp_path, CONFIG, start=start, until=4)
    files = sorted((tmp_path / "heard").iterdir())
    for changed in (
        replace(CONFIG, clean=1.0, loop=replace(LOOP, steps=10)),
        replace(CONFIG, clean=1.0, batch_seconds=4.0, loop=replace(LOOP, steps=14)),
    ):
        before = [path.read_bytes() for path in files]
        semantic_units.train(corpus, tmp_path, changed, start=start)
        assert all(path.read_bytes() != old for path, old in zip(files, before, strict=True))


def test_a_run_on_what_was_kept_equals_one_that_hears_it_anew(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SemanticEncoder(ENCODER)
    kept = semantic_units.train(corpus, tmp_path / "kept", CONFIG, start=start, until=4)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "heard").iterdir()}
    assert 0 < len(files) < 4
    kept = semantic_units.train(corpus, tmp_path / "kept", CONFIG, start=start)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept" / "heard").iterdir()} == files

    class Forgetful(HeardOnce):
        def __call__(self, number: int, device: torch.device | str = "cpu") -> Heard:
            shutil.rmtree(tmp_path / "anew" / "heard")
            (tmp_path / "anew" / "heard").mkdir()
            return super().__call__(number, device)

    monkeypatch.setattr(semantic_units, "HeardOnce", Forgetful)
    anew = semantic_units.train(corpus, tmp_path / "anew", CONFIG, start=start)
    for name, value in kept.state_dict().items():
        assert torch.equal(value, anew.state_dict()[name]), name


def test_a_reader_hears_the_units_that_it_learns_once(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SemanticEncoder(ENCODER).eval()
    config = SemanticUnitsConfig(ENCODER, LOOP, 6.0, keep=1.0, reading_steps=6, hold=1, hear_hours=3 / 3600)
    calls, lower = list[int](), SemanticEncoder.lower

    def counted(self: SemanticEncoder, mel: torch.Tensor, layers: int, start: int = 0) -> torch.Tensor:
        calls.append(layers)
        return lower(self, mel, layers, start)

    monkeypatch.setattr(SemanticEncoder, "lower", counted)
    made = semantic_units.train(corpus, tmp_path, config, start=start)
    for layers, folder in ((2, tmp_path / "reader" / "heard"), (1, tmp_path / "heard")):
        assert 0 < calls.count(layers) == len(list(folder.iterdir())) < 6, "all layers for the reader, the held one"
    for name, value in start.named_parameters():
        stays = name.startswith(("front.", "transformer.layers.0."))
        assert torch.equal(made.encoder.get_parameter(name), value) == stays, name


def test_nothing_is_kept_of_layers_that_learn() -> None:
    with pytest.raises(ConfigError, match=r"units\.hold"):
        SemanticUnitsConfig(hear_hours=1.0)
    with pytest.raises(ConfigError, match="2 layers"):
        SemanticUnitsConfig(ENCODER, hold=3)


def test_a_full_disk_is_told_of_in_one_line_and_leaves_no_half(corpus: Corpus, tmp_path: Path) -> None:
    start = SemanticEncoder(ENCODER)
    with room_for(3000), pytest.raises(UnsavedError, match="make room, or give fewer hear_hours") as error:
        semantic_units.train(corpus, tmp_path, CONFIG, start=start)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "heard").iterdir())
