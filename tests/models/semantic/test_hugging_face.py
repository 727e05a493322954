"""From a LLaMA folder to a speaking model, and from a speaking model to a folder that `transformers` agrees with."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from speechgpt_gen.models.errors import CheckpointError, ModelNotFoundError
from speechgpt_gen.models.semantic.hugging_face import extend_llama, save_hugging_face
from speechgpt_gen.models.semantic.vocabulary import SpeechVocabulary
from speechgpt_gen.models.tiny import tiny_bundle


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tiny text model as `transformers` writes it, two rows longer than its vocabulary."""
    vocabulary = SpeechVocabulary.train_bpe(["the sea is calm today", "what is half of four"], size=130)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary.n_text + 2,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    vocabulary.save(tmp_path)
    return tmp_path


def test_transformers_computes_what_the_exported_model_does(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save_hugging_face(bundle.semantic, bundle.vocabulary, tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path)
    tokens = torch.randint(bundle.vocabulary.size, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(bundle.semantic(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_an_extended_llama_keeps_its_text_and_starts_units_from_the_mean(llama: Path) -> None:
    theirs = LlamaForCausalLM.from_pretrained(llama)
    model, vocabulary = extend_llama(llama)
    text = torch.tensor([vocabulary.encode("The sea is half calm")])
    with torch.no_grad():
        wanted = theirs(text).logits[..., : vocabulary.n_text]
        made = model(text)
    torch.testing.assert_close(made[..., : vocabulary.n_text], wanted, rtol=1e-4, atol=1e-4)
    rows = model.model.embed_tokens.weight
    torch.testing.assert_close(rows[vocabulary.unit(7)], rows[: vocabulary.n_text].mean(0))
    assert model.config.vocab_size == vocabulary.size


def test_a_folder_that_is_no_llama_is_refused(llama: Path) -> None:
    (llama / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        extend_llama(llama)
    SpeechVocabulary.train_bpe(["the sea"], size=120).save(llama)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(CheckpointError, match="mlp"):
        extend_llama(llama)
