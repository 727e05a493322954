"""Distillation: features are compared over time, whatever their scale, and units learn from a teacher alone."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import HubertConfig, HubertModel

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingTokenizerConfig
from speechgpt_gen.models.training import semantic_units
from speechgpt_gen.models.training.acoustic import AcousticConfig
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.distillation import along_time
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.recipe import Recipe, _stage_one
from speechgpt_gen.models.training.semantic_units import SemanticUnitsConfig
from speechgpt_gen.models.training.teachers import Teacher

ENCODER = SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2, window=8, lookahead=2, reader_dim=8)


def test_features_are_compared_over_time_whatever_their_scale() -> None:
    torch.manual_seed(0)
    taught, frames = torch.randn(3, 40, 6), torch.tensor([40, 25, 1])
    scaled = taught * torch.rand(3, 1, 6).add(0.5)
    assert float(along_time(scaled, taught, frames)) == pytest.approx(math.log1p(math.exp(-1)), abs=1e-5)
    assert float(along_time(-scaled, taught, frames)) == pytest.approx(math.log1p(math.exp(1)), abs=1e-5)
    swapped = taught.roll(1, dims=-1)  # another feature's signal is no substitute
    assert float(along_time(swapped, taught, torch.tensor([40, 25, 20]))) > 0.6
    padded = scaled.clone()
    padded[1, 25:] = 9.0
    assert torch.equal(along_time(padded, taught, frames), along_time(scaled, taught, frames))


@pytest.fixture
def corpus(source: Path, tmp_path: Path) -> Corpus:
    return prepare(source, tmp_path / "corpus", progress=False)


@pytest.fixture
def hubert(tmp_path: Path) -> str:
    torch.manual_seed(0)
    config = HubertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    return str(tmp_path / "hubert")


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_units_learn_what_a_teacher_hears_and_go_on_from_a_checkpoint(
    corpus: Corpus, hubert: str, tmp_path: Path
) -> None:
    loop = LoopConfig(steps=24, warmup=2, learning_rate=3e-3, save_every=8)
    config = SemanticUnitsConfig(ENCODER, loop, batch_seconds=6.0, teacher=hubert, distillation=1.0, recognition=0.0)
    whole = semantic_units.train(corpus, tmp_path / "whole", config)
    log = losses(tmp_path / "whole")
    assert "ctc" not in log[-1]
    told = [line["distillation"] for line in log]
    assert sum(told[-4:]) < sum(told[:4]) - 0.05
    semantic_units.train(corpus, tmp_path / "parts", config, until=16)
    again = semantic_units.train(corpus, tmp_path / "parts", config)
    for ours, theirs in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_units_of_a_teacher_alone_are_read_before_words_are_placed(corpus: Corpus, hubert: str, tmp_path: Path) -> None:
    loop = LoopConfig(steps=2, warmup=1)
    for name, settings in (("taught", {"teacher": hubert, "distillation": 1.0, "recognition": 0.0}), ("read", {})):
        units = SemanticUnitsConfig(ENCODER, loop, batch_seconds=6.0, **settings)  # type: ignore[arg-type]
        recipe = Recipe(units, AcousticConfig(StreamingTokenizerConfig(ENCODER)))
        before = semantic_units.train(corpus, tmp_path / name / "units", units).early.weight
        found = _stage_one(tmp_path / name, recipe, corpus).early.weight
        assert torch.equal(found, before) == (name == "read")


def test_what_a_teacher_hears_is_kept_with_what_held_layers_say(
    corpus: Corpus, hubert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = LoopConfig(steps=6, warmup=1, save_every=2)
    start = semantic_units.SemanticUnits(SemanticUnitsConfig(ENCODER), 2).encoder.eval()
    config = SemanticUnitsConfig(
        ENCODER, loop, batch_seconds=6.0, teacher=hubert, distillation=1.0, hold=1, hear_hours=3 / 3600
    )
    semantic_units.train(corpus, tmp_path / "kept", config, start=start, until=3)
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "__call__", None)  # whoever asks it again fails
        semantic_units.train(corpus, tmp_path / "kept", config, start=start)
    told = [line["distillation"] for line in losses(tmp_path / "kept")]
    assert len(told) == 6
    assert all(0.3 < value < 1.4 for value in told)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "whisper"}, "belong together"),
        ({"distillation": 1.0}, "belong together"),
        ({"recognition": 0.0}, "give a teacher"),
    ],
)
def test_settings_that_teach_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SemanticUnitsConfig(ENCODER, **settings)  # type: ignore[arg-type]
