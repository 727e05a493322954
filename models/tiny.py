"""`tiny`: the real classes at a size for tests, with random weights from a fixed seed. It speaks noise, quickly."""

from __future__ import annotations

import torch
from torch import nn

from .bundle import Bundle, BundleConfig, assemble
from .perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from .perceptual.flow_matching import Solver
from .perceptual.schedule import BlockSchedule
from .semantic.llama import SemanticConfig, SemanticModel
from .semantic.steering import steer
from .semantic.vocabulary import N_UNITS, SpeechVocabulary
from .speech_tokenizer.detail import DETAIL_LEVELS
from .speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from .speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from .voice import Voice

_TEXTS = ("hello there, how are you?", "i am well, thank you.", "what is this? it is a test.")
_SEED = 20240124


def tiny_bundle() -> Bundle:
    """Build the bundle: the same weights every time, whatever torch's generators hold, which are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return _build()


def _build() -> Bundle:
    vocabulary = SpeechVocabulary.train_bpe(_TEXTS, size=120)
    config = BundleConfig(
        tokenizer=StreamingTokenizerConfig(
            semantic=SemanticEncoderConfig(bands=16, dim=16, layers=1, heads=2, window=16, lookahead=2, detail=3),
            encoder_dim=16,
            encoder_layers=1,
            decoder_dim=16,
            decoder_layers=1,
            heads=2,
            reach=8,
            latent_dim=8,
            n_q=4,
        ),
        semantic=SemanticConfig(
            vocab_size=vocabulary.size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
            max_position_embeddings=2048,
            detail=3,
        ),
        perceptual=BlockCausalConfig(latent_dim=8, dim=16, depth=2, heads=2, ff_mult=2.0, window_frames=20, detail=3),
        voices=("first", "second"),
        solver=Solver("euler", 2),
        blocks=BlockSchedule((5, 10)),
        description="Random weights for tests: it speaks noise.",
        license="Apache-2.0",
    )
    # Each part has a seed of its own: a change in one does not give the others new weights, nor the tests new answers.
    torch.manual_seed(_SEED)
    semantic = SemanticModel(config.semantic)
    _talk_briefly(semantic, vocabulary)
    torch.manual_seed(_SEED + 1)
    perceptual = BlockCausalFlow(config.perceptual)
    _stir(perceptual, 0.1)
    torch.manual_seed(_SEED + 2)
    tokenizer = StreamingSpeechTokenizer(config.tokenizer)
    _stir(tokenizer, 0.2)
    tokenizer.codebooks.vectors.normal_()
    voices = {name: _voice(name, tokenizer) for name in config.voices}
    return assemble(
        "tiny", config, vocabulary, tokenizer=tokenizer, semantic=semantic, perceptual=perceptual, voices=voices
    )


@torch.no_grad()
def _stir(module: nn.Module, scale: float) -> None:
    """Leave no weight at zero: what is initialised shut would hide mistakes from the tests."""
    for parameter in module.parameters():
        parameter.add_(scale * torch.randn_like(parameter))


@torch.no_grad()
def _talk_briefly(semantic: SemanticModel, vocabulary: SpeechVocabulary) -> None:
    """Make random weights end their texts, words and answers soon."""
    for parameter in semantic.model.layers.parameters():
        if parameter.ndim == 2:
            parameter.normal_(std=0.15)
    semantic.model.embed_tokens.weight.normal_()
    semantic.lm_head.weight.normal_(std=0.1)
    if semantic.model.embed_detail is not None:
        semantic.model.embed_detail.weight.normal_(std=0.5)
    likelier = (
        *((token, 0.2) for token in range(vocabulary.n_text) if vocabulary.piece(token).startswith(" ")),
        (vocabulary.listen, 0.65),
        (vocabulary.eoh, 0.8),
        (vocabulary.ua, 0.6),
        (vocabulary.sosp, 0.6),
        (vocabulary.eosp, 0.6),
        (vocabulary.eos, 0.35),
    )
    steer(semantic, 4.0, likelier)


def _voice(name: str, tokenizer: StreamingSpeechTokenizer) -> Voice:
    codes = torch.randint(tokenizer.config.codebook_size, (tokenizer.n_q, 1, 20))
    detail = 1 + torch.arange(codes.shape[-1]) % DETAIL_LEVELS**tokenizer.config.semantic.detail
    return Voice(name, codes[0, 0] + N_UNITS * detail, tokenizer.latents(codes)[0])
