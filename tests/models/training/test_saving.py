"""Passes over a corpus that are killed on the way, or find the disk full."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from speechgpt_gen.models.training import extract, perceptual_model
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.perceptual_model import extract_codes, load_codes
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.saving import Table, UnsavedError, in_parts, save_tensors
from speechgpt_gen.models.training.semantic_units import SemanticUnits, SemanticUnitsConfig
from tests.models.training.test_recipe import room_for

ENCODER = SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2, window=8, lookahead=2, detail=2)
TOKENIZER = StreamingTokenizerConfig(
    encoder_dim=16,
    encoder_layers=1,
    decoder_dim=16,
    decoder_layers=1,
    heads=2,
    reach=8,
    latent_dim=8,
    semantic=ENCODER,
)


class KilledError(Exception):
    """Stands for the end of a process."""


def killed(function: Callable[[torch.Tensor], torch.Tensor], after: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that is called so many times before the process ends."""
    calls = iter(range(after))

    def call(x: torch.Tensor) -> torch.Tensor:
        if next(calls, None) is None:
            raise KilledError
        return function(x)

    return call


@pytest.fixture(scope="module")
def corpus(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(source, tmp_path_factory.mktemp("saving") / "corpus", progress=False)


def counted(calls: list[int], last: int = 100) -> Callable[[int], Table]:
    """Makes a table for a step; killed at step `last`."""

    def make(step: int) -> Table:
        if step == last:
            raise KilledError
        calls.append(step)
        return {"step": np.full(2, step), "name": np.array(["x" * step])}

    return make


def test_a_pass_that_was_killed_goes_on_from_the_last_part(tmp_path: Path) -> None:
    path, calls = tmp_path / "pass.npz", list[int]()
    with pytest.raises(KilledError):
        in_parts(path, 10, counted(calls, last=8), of="this", every=3)
    assert not path.exists()
    assert calls == list(range(8))
    in_parts(path, 10, counted(calls), of="this", every=3)
    assert calls[8:] == [6, 7, 8, 9]
    with np.load(path, allow_pickle=False) as stored:
        assert sorted(stored.files) == ["name", "step"]
        assert stored["step"].tolist() == [n for n in range(10) for _ in range(2)]
        assert stored["name"].tolist() == ["x" * n for n in range(10)]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("of", "steps"), [("that", 10), ("this", 11)])
def test_parts_of_something_else_are_made_again(tmp_path: Path, of: str, steps: int) -> None:
    path, calls = tmp_path / "pass.npz", list[int]()
    with pytest.raises(KilledError):
        in_parts(path, 10, counted([], last=8), of="this", every=3)
    in_parts(path, steps, counted(calls), of=of, every=3)
    assert calls == list(range(steps))


def test_a_full_disk_is_told_of_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    path, calls = tmp_path / "pass.npz", list[int]()
    with pytest.raises(KilledError):
        in_parts(path, 10, counted([], last=5), of="this", every=3)
    with room_for(100), pytest.raises(UnsavedError, match="make room, and run it again to go on") as error:
        in_parts(path, 10, counted([]), of="this", every=3)
    assert "\n" not in str(error.value)
    assert [part.name for part in (tmp_path / "pass.parts").iterdir()] == ["000000.npz"]
    in_parts(path, 10, counted(calls), of="this", every=3)
    assert calls == list(range(3, 10))


def test_tensors_take_the_place_of_others_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    save_tensors({"a": torch.ones(3, 2).T}, path)
    kept = path.read_bytes()
    with room_for(100), pytest.raises(UnsavedError, match="make room, and run it again"):
        save_tensors({"a": torch.zeros(300)}, path)
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(load_file(path)["a"], torch.ones(2, 3))


@pytest.mark.parametrize("noise", [None, 1])
def test_units_are_the_same_whether_or_not_their_pass_was_killed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: int | None
) -> None:
    monkeypatch.setattr(extract, "in_parts", partial(in_parts, every=1))
    torch.manual_seed(0)
    module = SemanticUnits(SemanticUnitsConfig(encoder=ENCODER), 2)
    extract.extract(corpus, module, tmp_path / "whole.npz", batch_seconds=3.0, noise=noise)
    path = tmp_path / "spoken.npz"
    with monkeypatch.context() as patch:
        patch.setattr(module.encoder, "heard", killed(module.encoder.heard, 2))
        with pytest.raises(KilledError):
            extract.extract(corpus, module, path, batch_seconds=3.0, noise=noise)
    extract.extract(corpus, module, path, batch_seconds=3.0, noise=noise)
    whole, again = (extract.load_spoken(each, corpus) for each in (tmp_path / "whole.npz", path))
    assert whole.keys() == again.keys() == corpus.by_id.keys()
    for name, spoken in whole.items():
        assert len(spoken.units) == corpus.by_id[name].frames
        np.testing.assert_array_equal(spoken.heard, again[name].heard)
        assert (spoken.words, spoken.ends, spoken.cuts) == (again[name].words, again[name].ends, again[name].cuts)


def test_units_of_two_encoders_never_mix(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "in_parts", partial(in_parts, every=1))
    one, two = (SemanticUnits(SemanticUnitsConfig(encoder=ENCODER), 2) for _ in range(2))
    extract.extract(corpus, two, tmp_path / "whole.npz", batch_seconds=3.0)
    path = tmp_path / "spoken.npz"
    with monkeypatch.context() as patch:
        patch.setattr(one.encoder, "heard", killed(one.encoder.heard, 2))
        with pytest.raises(KilledError):
            extract.extract(corpus, one, path, batch_seconds=3.0)
    assert any((tmp_path / "spoken.parts").iterdir())
    extract.extract(corpus, two, path, batch_seconds=3.0)
    whole, again = (extract.load_spoken(each, corpus) for each in (tmp_path / "whole.npz", path))
    for name, spoken in whole.items():
        np.testing.assert_array_equal(spoken.heard, again[name].heard)


def test_codes_are_the_same_whether_or_not_their_pass_was_killed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    tokenizer = StreamingSpeechTokenizer(TOKENIZER).eval()
    torch.nn.init.normal_(tokenizer.codebooks.vectors)
    one_by_one = [tokenizer.encode(torch.from_numpy(corpus.audio(u))[None, None])[:, 0] for u in corpus.utterances]
    truth = torch.cat(one_by_one, dim=1).T
    monkeypatch.setattr(perceptual_model, "in_parts", partial(in_parts, every=2))
    monkeypatch.setattr(perceptual_model, "BucketBatches", lambda lengths, *_, **__: Single(len(lengths)))
    path = tmp_path / "codes.npz"
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "continuous", killed(tokenizer.continuous, 5))
        with pytest.raises(KilledError):
            extract_codes(corpus, tokenizer, truth[:, 0], path)
    assert len(list((tmp_path / "codes.parts").iterdir())) == 2
    extract_codes(corpus, tokenizer, truth[:, 0], path)
    codes = load_codes(path, corpus)
    assert codes.shape == (sum(u.frames for u in corpus.utterances), tokenizer.n_q)
    assert torch.equal(codes[:, 0].long(), truth[:, 0])
    assert (codes == truth).float().mean() > 0.9, "but for what bf16 rounds to another code"


class Single:
    """Batches of one utterance, the last one first."""

    def __init__(self, count: int) -> None:
        self.per_epoch = count

    def __call__(self, step: int) -> list[int]:
        return [self.per_epoch - 1 - step]
