"""The semantic model as a Hugging Face folder, and from one: a LLaMA learns to speak by new rows in its vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from ..checkpoint import load_strict
from ..errors import CheckpointError, ModelNotFoundError
from .llama import SemanticConfig, SemanticModel
from .published import read_weights, without_extras
from .vocabulary import SpeechVocabulary


def extend_llama(folder: Path) -> tuple[SemanticModel, SpeechVocabulary]:
    """A text model (`LlamaForCausalLM` with tokenizer.json) with units and conversation tokens added.

    New rows of embedding and head start from the mean of the text rows, so that no new token stands out at first.
    Raises ModelNotFoundError, CheckpointError or ConfigError.
    """
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelNotFoundError(f"{folder} has no {name}: give the folder of a LLaMA model")
    try:
        vocabulary = SpeechVocabulary(Tokenizer.from_file(str(folder / "tokenizer.json")))
        raw = json.loads((folder / "config.json").read_text())
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{folder} cannot be read ({error}): copy it again") from error
    config = SemanticConfig.from_hf({**raw, "vocab_size": vocabulary.size})
    state = read_weights(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in state:
            state[name] = _extended(state[name], vocabulary, name)
    model = SemanticModel(config)
    load_strict(model, without_extras(state, model), folder)
    return model, vocabulary


def _extended(rows: Tensor, vocabulary: SpeechVocabulary, name: str) -> Tensor:
    if len(rows) < vocabulary.n_text:
        raise CheckpointError(f"{name} has {len(rows)} rows, the tokenizer {vocabulary.n_text} tokens")
    text = rows[: vocabulary.n_text].float()
    new = text.mean(0, keepdim=True).expand(vocabulary.size - vocabulary.n_text, -1)
    return torch.cat([text, new])


def save_hugging_face(model: SemanticModel, vocabulary: SpeechVocabulary, folder: Path) -> None:
    """Write config.json, model.safetensors and the vocabulary's files; `transformers` loads it as LlamaForCausalLM.

    A LLaMA knows no detail of heard units, so what is learnt of it stays behind: this one hears plain units.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_hf() | {
        "pad_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.eos,
        "bos_token_id": None,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = {name: value.detach().cpu().float().contiguous() for name, value in model.state_dict().items()}
    state.pop("model.embed_detail.weight", None)
    state.pop("detail_head.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary.save(folder)
