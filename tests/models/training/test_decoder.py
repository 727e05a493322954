"""Stage three: a decoder that is trained alone gets better, resumes, and leaves the rest of the tokenizer as it was."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechgpt_gen.models.audio import load_audio
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from speechgpt_gen.models.training.adversary import AdversaryConfig
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.decoder import DecoderConfig, train
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.recordings import Recordings
from tests.models.training.test_prepare import sound

CONFIG = DecoderConfig(LoopConfig(steps=30, learning_rate=1e-2, warmup=1, save_every=10), batch=2, crop_frames=16)


@pytest.fixture
def tokenizer() -> StreamingSpeechTokenizer:
    """As a loaded model's: its weights are frozen."""
    torch.manual_seed(0)
    sizes = {"encoder_dim": 16, "encoder_layers": 1, "decoder_dim": 16, "decoder_layers": 1, "heads": 2}
    semantic = SemanticEncoderConfig(bands=20, dim=16, layers=1, heads=2, reader_dim=16)
    made = StreamingSpeechTokenizer(StreamingTokenizerConfig(semantic, n_q=3, latent_dim=8, **sizes))
    made.codebooks.vectors.normal_()
    return made.eval().requires_grad_(False)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rows = []
    for number in range(4):
        sound(tmp_path / f"{number}.wav")
        rows.append(f"{number}.wav\tHello.\tann\t{'valid' if number == 3 else 'train'}\n")
    (tmp_path / "corpus.tsv").write_text("audio\ttext\tspeaker\tsplit\n" + "".join(rows))
    return prepare(tmp_path, tmp_path / "cache", progress=False)


def test_only_a_copy_of_the_decoder_is_trained_and_it_resumes(
    tokenizer: StreamingSpeechTokenizer, corpus: Corpus, tmp_path: Path
) -> None:
    codes = torch.randint(0, 50, (Recordings(corpus).frames, 3), dtype=torch.int16)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    whole = train(corpus, tokenizer, codes, tmp_path / "whole", CONFIG)
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert not any(torch.equal(p, before[f"decoder.{name}"]) for name, p in whole.named_parameters())
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert "valid_spectral" in log[-1]
    train(corpus, tokenizer, codes, tmp_path / "parts", CONFIG, until=20)
    again = train(corpus, tokenizer, codes, tmp_path / "parts", CONFIG)
    for ours, theirs in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_goes_on_from_the_tokenizers_decoder_or_from_another(
    tokenizer: StreamingSpeechTokenizer, corpus: Corpus, tmp_path: Path
) -> None:
    codes = torch.zeros(Recordings(corpus).frames, 3, dtype=torch.int16)
    still = DecoderConfig(LoopConfig(steps=1, learning_rate=0.0), batch=2, crop_frames=16)
    made = train(corpus, tokenizer, codes, tmp_path / "own", still)
    assert torch.equal(made.head.weight, tokenizer.decoder.head.weight)
    torch.manual_seed(5)
    other = StreamingSpeechTokenizer(tokenizer.config).decoder
    made = train(corpus, tokenizer, codes, tmp_path / "other", still, start=other)
    assert torch.equal(made.head.weight, other.head.weight)
    assert not torch.equal(made.head.weight, tokenizer.decoder.head.weight)


def test_a_run_plays_what_it_makes_of_held_out_speech(
    tokenizer: StreamingSpeechTokenizer, corpus: Corpus, tmp_path: Path
) -> None:
    recordings = Recordings(corpus)
    codes = torch.randint(0, 50, (recordings.frames, 3), dtype=torch.int16)
    (held_out,) = corpus.split("valid")
    first_row = recordings.first_row[held_out.id]
    latents = tokenizer.latents(codes[first_row:][: held_out.frames].long().T[:, None])
    config = replace(CONFIG, evaluate_every=2)
    for until in (2, 4):
        decoder = train(corpus, tokenizer, codes, tmp_path / "run", config, until=until).eval()
        pcm = load_audio(tmp_path / "run" / "valid.wav")
        with torch.no_grad():
            made = decoder(latents)[0].clamp(-1, 1)
        np.testing.assert_allclose(pcm[: len(made)], made, atol=1e-4)
        assert not pcm[len(made) :].any()
    board = EventAccumulator(str(tmp_path / "run"), size_guidance={"audio": 0}).Reload()
    assert [event.step for event in board.Audio("valid")] == [2, 4]


def test_discriminators_learn_beside_the_decoder_and_go_on_with_it(
    tokenizer: StreamingSpeechTokenizer, corpus: Corpus, tmp_path: Path
) -> None:
    codes = torch.randint(0, 50, (Recordings(corpus).frames, 3), dtype=torch.int16)
    loop = replace(CONFIG.loop, steps=6, learning_rate=1e-3, save_every=2)
    adversary = AdversaryConfig(adversarial=0.02, features=0.04, waveform=1.0, channels=4)
    config = replace(CONFIG, loop=loop, adversary=adversary)
    whole = train(corpus, tokenizer, codes, tmp_path / "whole", config)
    train(corpus, tokenizer, codes, tmp_path / "parts", config, until=4)
    again = train(corpus, tokenizer, codes, tmp_path / "parts", config)
    for ours, theirs in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    states = [torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "parts")]
    assert set(states[0]["module"]) == set(whole.state_dict()), "what is exported knows nothing of its judges"
    for (name, ours), theirs in zip(states[0]["beside"].items(), states[1]["beside"].values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    torch.save(states[0] | {"beside": None}, tmp_path / "whole" / "checkpoint.pt")
    with pytest.raises(ConfigError, match="another configuration"):
        train(corpus, tokenizer, codes, tmp_path / "whole", config)
    line = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[-1])
    assert {"spectral", "waveform", "discriminator", "adversarial", "features"} < set(line)
