"""`8b`: the paper's scale with random weights from a fixed seed, to measure and develop the GPU engine with.

Semantic model of LLaMA-2-7B's shape, perceptual model of about 1 B parameters, speech tokenizer of the published width.
It speaks noise: speed and exactness do not depend on training. Weights are drawn where they will live.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from .bundle import Bundle, BundleConfig, assemble
from .perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from .perceptual.flow_matching import Solver
from .semantic.llama import SemanticConfig, SemanticModel
from .semantic.steering import steer
from .semantic.vocabulary import N_UNITS, SPECIALS, WORD_START, SpeechVocabulary
from .speech_tokenizer.semantic_encoder import SemanticEncoderConfig
from .speech_tokenizer.streaming import StreamingSpeechTokenizer, StreamingTokenizerConfig
from .voice import Voice

_SEED = 20240124
_N_TEXT = 32_000
"""Text tokens, as many as LLaMA-2 has."""
_CONSTANT = 64.0
"""Of the channel that every token's embedding shares."""
_VOICE_FRAMES = 150


def eight_config() -> BundleConfig:
    """The configuration of 8b."""
    return BundleConfig(
        tokenizer=StreamingTokenizerConfig(
            semantic=SemanticEncoderConfig(dim=768, layers=6, heads=12),
            encoder_dim=768,
            encoder_layers=4,
            decoder_dim=1024,
            decoder_layers=8,
            heads=16,
            latent_dim=1024,
        ),
        semantic=SemanticConfig(
            vocab_size=_N_TEXT + N_UNITS + len(SPECIALS),
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            tie_word_embeddings=False,
            max_position_embeddings=2048,
        ),
        perceptual=BlockCausalConfig(latent_dim=1024, dim=2048, depth=20, heads=16),
        voices=("random",),
        solver=Solver("euler", 8),
        description="LLaMA-2-7B's shape, random weights: it speaks noise, at the paper's scale.",
        license="Apache-2.0",
    )


def random_bundle(name: str, config: BundleConfig, device: torch.device) -> Bundle:
    """Seeded random weights of a configuration, on `device`: the big models in bfloat16, the tokenizer in float32."""
    vocabulary = text_vocabulary(config.semantic.vocab_size - N_UNITS - len(SPECIALS))
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(_SEED)
        with _default_dtype(torch.bfloat16):
            semantic = SemanticModel(config.semantic)
        # It hears without writing, spells one letter a word, and speaks words of some length.
        likelier = (
            (vocabulary.listen, 4.0),
            (vocabulary.eoh, 4.0),
            (vocabulary.sosp, 4.0),
            (vocabulary.ua, 0.5),
            (vocabulary.eosp, 0.4),
        )
        steer(semantic, _CONSTANT, likelier)
        perceptual = BlockCausalFlow(config.perceptual)
        for parameter in perceptual.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        torch.nn.init.normal_(perceptual.modulation.weight, std=0.02)
        torch.nn.init.normal_(perceptual.out_proj.weight, std=0.02)
        tokenizer = StreamingSpeechTokenizer(config.tokenizer)
        tokenizer.codebooks.vectors.normal_()
        units = torch.randint(N_UNITS, (_VOICE_FRAMES,))
        latents = torch.randn(_VOICE_FRAMES, config.tokenizer.latent_dim)
    voices = {voice: Voice(voice, units, latents) for voice in config.voices}
    return assemble(
        name, config, vocabulary, tokenizer=tokenizer, semantic=semantic, perceptual=perceptual, voices=voices
    )


def text_vocabulary(size: int) -> SpeechVocabulary:
    """A vocabulary of `size` text tokens: the printable ASCII characters, and names without a meaning for the rest."""
    characters = [WORD_START, *(chr(c) for c in range(0x21, 0x7F))]
    names = [*characters, *(f"<{number}>" for number in range(size - len(characters)))]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    return SpeechVocabulary(tokenizer)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
