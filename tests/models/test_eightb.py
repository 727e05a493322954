"""8b's definition at its real shape on the meta device, and its making at a small one."""

from dataclasses import replace

import pytest
import torch

from speechgpt_gen.models.bundle import load_bundle, read_config
from speechgpt_gen.models.eightb import eight_config, random_bundle, text_vocabulary
from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.generation import Listener
from speechgpt_gen.models.memory import GB, check_memory, memory_need
from speechgpt_gen.models.perceptual.block_causal import BlockCausalFlow
from speechgpt_gen.models.semantic.llama import SemanticModel
from speechgpt_gen.models.semantic.pieces import Transcript, Unit, Word
from speechgpt_gen.models.speech_tokenizer.streaming import StreamingSpeechTokenizer


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_shapes_are_those_of_the_paper() -> None:
    config = eight_config()
    with torch.device("meta"):
        assert count(SemanticModel(config.semantic)) == pytest.approx(6.75e9, rel=0.01)  # LLaMA-2-7B has 6.74e9
        assert count(BlockCausalFlow(config.perceptual)) == pytest.approx(1.05e9, rel=0.05)
        assert count(StreamingSpeechTokenizer(config.tokenizer)) > 1e8
    assert (config.tokenizer.latent_dim, config.tokenizer.n_q) == (1024, 8)
    assert read_config("8b") == config


def small() -> object:
    config, tiny = eight_config(), load_bundle("tiny").config
    semantic = replace(
        config.semantic,
        vocab_size=300 + 1024 + 11,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        detail=tiny.tokenizer.semantic.detail,
    )
    return replace(tiny, semantic=semantic, voices=("random",))


def test_it_is_seeded_and_talks_as_a_trained_model_would() -> None:
    config = small()
    first, second = (random_bundle("small", config, torch.device("cpu")) for _ in range(2))  # type: ignore[arg-type]
    for part in ("semantic", "perceptual", "tokenizer"):
        ours, theirs = (getattr(bundle, part).state_dict() for bundle in (first, second))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert first.semantic.lm_head.weight.dtype == torch.bfloat16
    assert first.perceptual.out_proj.weight.dtype == torch.bfloat16
    assert first.perceptual.latent_std.dtype == torch.float32
    first.semantic.float()
    listener = Listener(first)
    listener.listen(torch.randn(16_000).mul(0.05).numpy())
    heard, *pieces = (piece for piece, _ in zip(listener.reply("direct", seed=1), range(60), strict=False))
    listener.close_answer()
    assert listener.transcript == ""
    assert heard == Transcript("")
    assert isinstance(pieces[0], Word)
    assert len(pieces[0].text) == 1
    assert sum(isinstance(piece, Unit) for piece in pieces) > 20


def test_a_vocabulary_of_any_size_writes_and_reads() -> None:
    vocabulary = text_vocabulary(300)
    assert vocabulary.n_text == 300
    assert vocabulary.decode(vocabulary.encode("Hello there.")) == "Hello there."


def test_what_is_needed_is_known_before_loading() -> None:
    config = eight_config()
    full, rounded = (memory_need(config, precision, 2048) for precision in ("bfloat16", "fp8"))
    assert full.weights == pytest.approx(16.1e9, rel=0.03)  # 13.5 + 2.1 + the tokenizer in float32
    assert rounded.weights == pytest.approx(full.weights - 6.6e9, rel=0.02)
    halved = memory_need(config, "bfloat16", 2048, fp8_cache=True)
    assert full.slot - halved.slot == 2064 * 32 * 2 * 4096
    assert full.slot == pytest.approx(0.5 * 2**20 * 2064 + 361e6, rel=0.02)
    check_memory(config, "bfloat16", 2048, slots=32, free=80 * GB, name="8b")
    with pytest.raises(ConfigError, match=r"8b in bfloat16 with 32 slots of 2048 tokens needs \d+\.\d GB .* 40.0 GB"):
        check_memory(config, "bfloat16", 2048, slots=32, free=40 * GB, name="8b")
    with pytest.raises(ConfigError, match=r"set slots to 1[0-9] or fewer"):
        check_memory(config, "bfloat16", 2048, slots=32, free=40 * GB, name="8b")
    check_memory(config, "bfloat16", 2048, slots=28, free=60 * GB, name="8b", fp8_cache=True)
    with pytest.raises(ConfigError, match=r"needs .* GB of GPU memory and 60.0 GB are free: .* set kv_cache to fp8"):
        check_memory(config, "bfloat16", 2048, slots=32, free=60 * GB, name="8b")
    with pytest.raises(ConfigError, match="more memory, or a smaller model"):
        check_memory(config, "bfloat16", 2048, slots=1, free=10 * GB, name="8b")


def test_it_is_for_a_gpu() -> None:
    with pytest.raises(ConfigError, match="8b needs a GPU: set device to cuda, or choose nano"):
        load_bundle("8b")
    with pytest.raises(ConfigError, match="'fp8' is for a GPU"):
        load_bundle("tiny", precision="fp8")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' cannot be used"):
            load_bundle("8b", "cuda", "bfloat16")
