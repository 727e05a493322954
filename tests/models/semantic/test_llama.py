"""The model against `transformers`, against itself with a cache, and packed rows against separate ones."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechgpt_gen.kernels.attention import attend, attend_packed
from speechgpt_gen.models.errors import ConfigError, EngineError
from speechgpt_gen.models.semantic.llama import SemanticConfig, SemanticModel

TINY = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def tiny(**changes: Any) -> SemanticModel:
    torch.manual_seed(1)
    model = SemanticModel(SemanticConfig(**{**TINY, **changes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the start, so that every part shows in the output
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_transformers(tied: bool, kv_heads: int) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny(tie_word_embeddings=tied, num_key_value_heads=kv_heads, rope_theta=500.0, rms_norm_eps=1e-3)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**model.config.to_hf())).eval()
    missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if tied else [])
    tokens = torch.randint(0, 61, (2, 23))
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-4, rtol=1e-4)
    assert SemanticConfig.from_hf(theirs.config.to_dict()) == model.config


def test_detail_adds_a_vector_for_the_level_of_each_digit() -> None:
    model = tiny(detail=3).model
    heard = 7 + 61 * (1 + (2 + 4 * 0 + 16 * 3))
    with torch.inference_mode():
        made, plain = model.embed(torch.tensor([[heard, 7, 5]])), model.embed_tokens(torch.tensor([[7, 7, 5]]))
    told = model.embed_detail.weight[[2, 4 + 0, 8 + 3]].sum(0)  # type: ignore[index, union-attr]
    torch.testing.assert_close(made[0, 0], plain[0, 0] + told)
    assert torch.equal(made[0, 1:], plain[0, 1:])


def test_the_detail_of_a_unit_hangs_on_it_and_on_the_state_that_drew_it() -> None:
    model = tiny(detail=3)
    states, units = torch.randn(4, model.config.hidden_size), torch.tensor([7, 7, 9, 9])
    states[1] = states[0]
    logits = model.detail_logits(states, units)
    assert logits.shape == (4, 3, 4)
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(model.detail_logits(states[:1], units[2:3])[0], logits[0])
    assert not torch.equal(logits[2], logits[3])
    with pytest.raises(TypeError, match="no detail"):
        tiny().detail_logits(states, units)


def test_a_model_that_learns_of_detail_starts_as_it_was() -> None:
    before, after = tiny(), SemanticModel(SemanticConfig(**TINY, detail=2)).eval()
    after.load_state_dict(after.state_dict() | before.state_dict())
    tokens = torch.randint(0, 61, (1, 9))
    with torch.inference_mode():
        assert torch.equal(after(tokens + 61 * torch.arange(9)), before(tokens))


def test_tied_weights_are_saved_once_and_stay_tied() -> None:
    model, other = tiny(tie_word_embeddings=True), SemanticModel(SemanticConfig(**TINY, tie_word_embeddings=True))
    assert "lm_head.weight" not in model.state_dict()
    other.load_state_dict(model.state_dict())
    assert other.lm_head.weight is other.model.embed_tokens.weight
    tokens = torch.randint(0, 61, (1, 5))
    torch.testing.assert_close(other(tokens), model(tokens))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 6), min_size=1, max_size=6), back=st.integers(0, 5))
def test_any_chunking_with_a_cache_equals_one_run(cuts: list[int], back: int) -> None:
    model = tiny()
    total = sum(cuts)
    tokens = torch.randint(0, 61, (2, total))
    cache = model.empty_cache(rows=2)
    with torch.inference_mode():
        expected = model(tokens)
        model(torch.randint(0, 61, (2, back + 1)), cache)  # a false start ...
        cache.rewind(0)  # ... that leaves no trace
        parts = [model(chunk, cache) for chunk in tokens.split(cuts, dim=1)]
        cache.rewind(total - 1)
        parts[-1][:, -1:] = model(tokens[:, -1:], cache)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-4, rtol=1e-4)


def test_packed_rows_equal_separate_ones() -> None:
    model = tiny()
    first, second = torch.randint(0, 61, (1, 5)), torch.randint(0, 61, (1, 7))
    document = torch.tensor([0] * 5 + [1] * 7)
    mask = (document[:, None] == document[None]).tril()[None, None]
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    with torch.inference_mode():
        packed = model(torch.cat([first, second], dim=1), positions=positions, mask=mask)
        torch.testing.assert_close(packed[:, :5], model(first), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed[:, 5:], model(second), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("piece", [3, 8, 64])
def test_attention_of_packed_rows_in_pieces_equals_the_whole(piece: int) -> None:
    q, k, v = (torch.randn(2, 3, 21, 4, requires_grad=True) for _ in range(3))
    document = torch.randint(0, 3, (2, 21)).sort(dim=1).values
    mask = (document[:, :, None] == document[:, None]).tril()[:, None]
    outputs = [attend(q, k, v, mask), attend_packed(q, k, v, mask, piece)]
    torch.testing.assert_close(outputs[1], outputs[0])
    weight = torch.randn_like(outputs[0])
    for whole, pieces in zip(*(torch.autograd.grad(y, (q, k, v), weight) for y in outputs), strict=True):
        torch.testing.assert_close(pieces, whole)


def test_trains_in_bfloat16() -> None:
    model = tiny()
    tokens = torch.randint(0, 61, (2, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens)
    torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    with torch.inference_mode():
        assert (logits.float() - model(tokens)).norm() < 0.05 * logits.float().norm()


def test_fused_linears_compute_the_same() -> None:
    model = tiny()
    tokens = torch.randint(0, 61, (1, 9))
    with torch.inference_mode():
        expected = model(tokens)
        torch.testing.assert_close(model.fuse_()(tokens), expected, atol=1e-5, rtol=1e-5)
    assert not any("q_proj" in name or "up_proj.weight" in name.replace("gate_up", "") for name in model.state_dict())


def test_a_full_cache_says_so_and_keeps_what_it_has() -> None:
    model = tiny()
    cache = model.empty_cache(capacity=4)
    model(torch.zeros(1, 3, dtype=torch.int64), cache)
    with pytest.raises(EngineError, match="4 positions"):
        model(torch.zeros(1, 2, dtype=torch.int64), cache)
    assert cache.length == 3
    with pytest.raises(ValueError, match="rewind"):
        cache.rewind(4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
        ({"model_type": "mistral"}, "model_type='mistral'"),
        ({"head_dim": 16}, "head_dim=16"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"hidden_size": 30}, "heads of even size"),
        ({"vocab_size": 0}, "vocab_size must be positive"),
    ],
)
def test_configurations_that_are_not_computed_are_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SemanticConfig.from_hf({**TINY, **change})
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks vocab_size, hidden_size"):
        SemanticConfig.from_hf({"model_type": "llama"})
