from pathlib import Path

import numpy as np
import torch

from speechgpt_gen.models.speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from speechgpt_gen.models.training.acoustic import _RARE, follow_units
from speechgpt_gen.models.training.corpus import Corpus
from speechgpt_gen.models.training.prepare import prepare


def test_codebook_0_follows_its_units(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path, progress=False)
    corpus = Corpus(tmp_path)
    torch.manual_seed(0)
    sizes = StreamingTokenizerConfig(
        SemanticEncoderConfig(bands=20, dim=32, layers=1, heads=2), 16, 1, 16, 1, heads=2, latent_dim=8
    )
    tokenizer = StreamingSpeechTokenizer(sizes).eval()
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
