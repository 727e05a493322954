import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechgpt_gen.models.audio import load_audio
from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from speechgpt_gen.models.training.acoustic import _RARE, AcousticConfig, follow_units, train
from speechgpt_gen.models.training.adversary import AdversaryConfig
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.loop import LoopConfig
from speechgpt_gen.models.training.prepare import prepare
from speechgpt_gen.models.training.recordings import Recordings
from tests.models.training.test_prepare import sound

SIZES = StreamingTokenizerConfig(
    SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2), 16, 1, 16, 1, heads=2, latent_dim=8
)


def test_codebook_0_follows_its_units(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path, progress=False)
    corpus = Corpus(tmp_path)
    torch.manual_seed(0)
    tokenizer = StreamingSpeechTokenizer(SIZES).eval()
    tokenizer.codebooks.vectors.normal_()
    frames = sum(u.frames for u in corpus.utterances)
    units = torch.randint(5, (frames,), dtype=torch.int16)
    sums = {unit: tokenizer.codebooks.vectors[0][unit] * _RARE for unit in range(5)}
    counts, first = dict.fromkeys(range(5), _RARE), 0
    for u in corpus.utterances:
        wav = torch.from_numpy(corpus.audio(u))[None, None]
        with torch.no_grad():
            latents = tokenizer.continuous(wav)[0]
        for unit, latent in zip(units[first : first + u.frames].tolist(), latents, strict=True):
            if u.split == "train":
                sums[unit], counts[unit] = sums[unit] + latent, counts[unit] + 1
        first += u.frames
    found = follow_units(corpus, tokenizer, units, hours=1.0)
    for unit in range(5):
        np.testing.assert_allclose(found[unit], sums[unit] / counts[unit], rtol=1e-3, atol=1e-4)
    assert torch.equal(found[5:], tokenizer.codebooks.vectors[0][5:])
    assert torch.equal(follow_units(corpus, tokenizer, units, hours=0.0), tokenizer.codebooks.vectors[0])


@pytest.mark.parametrize(("continuous_steps", "batch", "adversarial"), [(0, 16, 0.0), (5, 16, 0.0), (8, 2, 0.02)])
def test_a_codec_that_was_stopped_is_the_one_that_was_not(
    tmp_path: Path, continuous_steps: int, batch: int, adversarial: float
) -> None:
    """Averages of the codebooks, what revives dead codes and discriminators included."""
    rows = []
    for number in range(4):
        sound(tmp_path / f"{number}.wav")
        rows.append(f"{number}.wav\tHello.\tann\t{'valid' if number == 3 else 'train'}\n")
    (tmp_path / "corpus.tsv").write_text("audio\ttext\tspeaker\tsplit\n" + "".join(rows))
    corpus = prepare(tmp_path, tmp_path / "cache", progress=False)
    units = torch.randint(5, (Recordings(corpus).frames,), dtype=torch.int16)
    config = AcousticConfig(
        tokenizer=SIZES,
        loop=LoopConfig(steps=8, learning_rate=1e-3, warmup=1, save_every=2),
        continuous_steps=continuous_steps,
        batch=batch,
        crop_frames=16,
        adversary=AdversaryConfig(adversarial=adversarial, channels=4),
        evaluate_every=4,
    )
    whole = train(corpus, tmp_path / "whole", config, units)
    train(corpus, tmp_path / "parts", config, units, until=6)
    again = train(corpus, tmp_path / "parts", config, units)
    for (name, ours), theirs in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name, rtol=0, atol=0)
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "valid_spectral" in line] == [4, 8]
    held_out = corpus.split("valid")[0]
    assert len(load_audio(tmp_path / "whole" / "valid.wav")) == held_out.frames * 320 + 8000
