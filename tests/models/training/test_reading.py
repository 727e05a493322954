"""What is fitted to the states of a finished encoder: places of words, and the detail of what is heard."""

from pathlib import Path

import pytest
import torch

from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoder, SemanticEncoderConfig
from speechgpt_gen.models.training import reading
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.semantic_units import SemanticUnits, SemanticUnitsConfig

CONFIG = SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2, window=8, lookahead=2, detail=2)


@pytest.fixture(scope="module")
def corpus(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("reading")
    prepare(source, folder / "corpus", progress=False)
    return Corpus(folder / "corpus")


def test_units_that_stay_are_read_anew(corpus: Corpus) -> None:
    module = SemanticUnits(SemanticUnitsConfig(encoder=CONFIG), 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first = reading.learn_to_read(corpus, module, epochs=1)
    assert reading.learn_to_read(corpus, module) < first
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"early.weight", "early.bias"}


def test_detail_is_learnt_by_reading_and_nothing_else_moves(corpus: Corpus) -> None:
    torch.manual_seed(0)
    encoder = SemanticEncoder(CONFIG).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    first = reading.learn_detail(corpus, encoder, epochs=1)
    assert reading.learn_detail(corpus, encoder, epochs=12) < first
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved >= {"detail.project.weight", "detail.spread.running_mean"}
    assert all(name.startswith("detail.") for name in moved)


def test_detail_follows_an_encoder_whose_states_say_the_same_otherwise(corpus: Corpus) -> None:
    torch.manual_seed(0)
    before = SemanticEncoder(CONFIG).eval()
    after = SemanticEncoder(before.config).eval()
    after.load_state_dict(before.state_dict())
    order = torch.randperm(32)

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return before.transformer.norm(x)[..., order]

    after.transformer.norm.forward = shuffled  # type: ignore[method-assign]
    reading.follow_detail(corpus, after, before)
    wav = torch.from_numpy(corpus.audio(corpus.by_id["u2"]))[None]
    with torch.inference_mode():
        same = (after(wav) // 1024 == before(wav) // 1024).float().mean()
    assert same > 0.9
