"""What is heard of a run: the same few utterances each time, texts to their end or to ten seconds."""

import pytest
import torch

from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.training import samples
from speechgpt_gen.models.training.corpus import Corpus, Utterance
from speechgpt_gen.models.training.samples import evenly, in_a_row, played, read_aloud, units_alone


def utterance(number: int, split: str, text: str = "Hello.") -> Utterance:
    return Utterance(f"u{number}", "ann", "sentence", "", split, text, 0, 640)


def corpus_of(*utterances: Utterance) -> Corpus:
    corpus = Corpus.__new__(Corpus)
    corpus.utterances = list(utterances)
    return corpus


def test_a_few_held_out_utterances_with_words_are_played_in_a_row() -> None:
    said = [utterance(n, "valid" if n > 2 else "train", "" if n == 3 else "Hello.") for n in range(24)]
    made: list[str] = []

    def make(u: Utterance) -> torch.Tensor:
        made.append(u.id)
        return torch.full((u.samples,), float(u.id[1:]))

    wav = played(corpus_of(*said), make)
    assert made == ["u4", "u9", "u14", "u19"]
    assert len(wav) == 4 * (640 + 8000)
    assert torch.equal(wav[640 + 8000 :][:640], torch.full((640,), 9.0))
    assert not wav[640:8640].any()
    played(corpus_of(*said[:3]), make)
    assert made[4:] == ["u0", "u1", "u2"], "with nothing held out, of everything"


def test_evenly_takes_as_many_as_there_are() -> None:
    said = [utterance(n, "valid") for n in range(5)]
    assert evenly(said, 64) == said
    assert [u.id for u in evenly(said, 2)] == ["u0", "u2"]


def test_nano_reads_aloud_and_is_heard_by_its_units_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle("nano")
    units = read_aloud(bundle.semantic, bundle.vocabulary, "It is four.")
    assert 25 < len(units) < 150
    wav = units_alone(bundle.tokenizer, units)
    assert wav.shape == (320 * len(units),)
    assert 0.02 < float(wav.square().mean().sqrt()) < 0.5
    assert len(read_aloud(bundle.semantic, bundle.vocabulary, "...")) == 0
    monkeypatch.setattr(samples, "_LONGEST", 10)
    assert torch.equal(read_aloud(bundle.semantic, bundle.vocabulary, "It is four."), units[:10])


def test_sounds_in_a_row_are_apart() -> None:
    assert in_a_row([torch.ones(3), torch.ones(2)]).sum() == 5
