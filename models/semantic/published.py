"""Language models that others published: a Hugging Face `LlamaForCausalLM` folder with SpeechGPT's or AnyGPT's tokens.

The folder holds config.json, weights (model.safetensors or pytorch_model.bin, whole or in shards with an index) and a
tokenizer (tokenizer.json, or LLaMA's tokenizer.model with added_tokens.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from ..checkpoint import load_state, load_strict
from ..errors import CheckpointError, ModelNotFoundError, TextError
from .llama import SemanticConfig, SemanticModel
from .prompts import STYLES, UNIT, PromptStyle
from .sampling import Sampler, SamplingOptions
from .sentencepiece import load_sentencepiece

PUBLISHED_SAMPLING: Final = SamplingOptions(temperature=0.7, text_temperature=0.7, top_k=50, top_p=0.8)
"""What SpeechGPT's inference script really uses."""

_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")


class PublishedVocabulary:
    """Tokens of a published model: LLaMA's text, units `<n>` (or with AnyGPT's emoji), speech brackets and chat tokens.

    Raises CheckpointError when units are missing or not numbered from 0 on, or a bracket is missing.
    """

    def __init__(self, tokenizer: Tokenizer, bos: int | None = 1, eos: Sequence[int] = (2,)) -> None:
        self._tokenizer = tokenizer
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        self.size: int = max(tokens.values()) + 1
        numbered = {int(m[1]): i for token, i in tokens.items() if (m := UNIT.fullmatch(token))}
        if not numbered or max(numbered) != len(numbered) - 1:
            raise CheckpointError(
                f"the tokenizer has {len(numbered)} unit tokens <0>, <1>, ... and not all in a row: "
                "give a model whose vocabulary holds semantic units"
            )
        self.units: tuple[int, ...] = tuple(numbered[n] for n in range(len(numbered)))
        self._unit_index = {token: n for n, token in enumerate(self.units)}
        lower = {token.lower(): i for token, i in tokens.items()}
        missing = [name for name in ("<sosp>", "<eosp>") if name not in lower]
        if missing:
            raise CheckpointError(f"the tokenizer lacks {' and '.join(missing)}: it is not one of a speech model")
        self.sosp, self.eosp = lower["<sosp>"], lower["<eosp>"]
        self.bos = bos
        self.ends: tuple[int, ...] = tuple(dict.fromkeys([*eos, *([tokens["<eos>"]] if "<eos>" in tokens else [])]))
        self.style: PromptStyle = next((s for s in STYLES if s.assistant in tokens), STYLES[0])
        added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        self._own = re.compile("|".join(re.escape(t) for t in sorted(added, key=len, reverse=True)))

    def encode(self, prompt: str) -> list[int]:
        """Ids of a prompt (`style`), the model's own tokens recognised, with the start token first."""
        start = [] if self.bos is None else [self.bos]
        brackets = {self.sosp: "<sosp>", self.eosp: "<eosp>"}
        for token, written in brackets.items():  # models that spell them in capitals
            prompt = prompt.replace(written, self._tokenizer.id_to_token(token) or written)
        return start + list(self._tokenizer.encode(prompt, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, the model's own tokens included, for `parse_answer`."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def plain(self, text: str) -> str:
        """A person's text without anything that would be read as one of the model's own tokens. Raises TextError if
        nothing is left."""
        while (cleaned := self._own.sub("", text)) != text:  # taking one out may put another together
            text = cleaned
        if not text.strip():
            raise TextError("the text has nothing to speak: give at least one word")
        return text

    def unit_index(self, token: int) -> int | None:
        """Semantic unit of a token, None for other tokens."""
        return self._unit_index.get(token)

    @classmethod
    def load(cls, folder: Path, config: dict[str, Any]) -> PublishedVocabulary:
        """Read the tokenizer of a model folder. Raises ModelNotFoundError or CheckpointError."""
        if (folder / "tokenizer.json").is_file():
            try:
                tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            except Exception as error:  # the tokenizers library raises bare Exception
                raise CheckpointError(f"{folder / 'tokenizer.json'} cannot be read ({error}): copy it again") from error
        elif (folder / "tokenizer.model").is_file():
            tokenizer = load_sentencepiece(folder / "tokenizer.model")
        else:
            raise ModelNotFoundError(f"{folder} has neither tokenizer.json nor tokenizer.model: copy the tokenizer too")
        if (folder / "added_tokens.json").is_file():
            _add(tokenizer, _json(folder / "added_tokens.json"), folder)
        eos = config.get("eos_token_id", 2)
        return cls(tokenizer, config.get("bos_token_id", 1), eos if isinstance(eos, list) else [eos])


@dataclass(frozen=True, eq=False)
class PublishedModel:
    """A published language model and its vocabulary."""

    model: SemanticModel
    vocabulary: PublishedVocabulary

    def generate(
        self,
        prompt: str,
        sampling: SamplingOptions = PUBLISHED_SAMPLING,
        seed: int = 0,
        max_new: int = 2048,
        min_new: int = 10,
    ) -> Iterator[int]:
        """Tokens of the answer to a prompt of `vocabulary.style`, without the end token.

        After `<sosp>` only units and `<eosp>` are drawn, elsewhere no units. No end before `min_new` tokens. Raises
        TextError for a prompt that leaves no room for an answer.
        """
        vocabulary = self.vocabulary
        tokens = vocabulary.encode(prompt)
        room = self.model.config.max_position_embeddings - len(tokens)
        if room <= min_new:
            raise TextError(
                f"the prompt has {len(tokens)} tokens, the model holds {len(tokens) + room}: ask something shorter"
            )
        cache = self.model.empty_cache(len(tokens) + min(room, max_new))
        device = cache.keys.device
        speech, text, early = (mask.nonzero().flatten().to(device) for mask in self._classes())
        sampler = Sampler(sampling, seed, self.model.config.vocab_size)
        speaking = tokens[-1] == vocabulary.sosp
        history: list[int] = []
        for made in range(min(room, max_new)):
            logits = self._step(tokens, cache)
            allowed = speech if speaking else early if made < min_new else text
            temperature = sampling.temperature if speaking else sampling.text_temperature
            token = sampler.draw(logits, made, allowed, temperature=temperature, history=() if speaking else history)
            if token in vocabulary.ends:
                return
            yield token
            speaking = token == vocabulary.sosp or (speaking and token != vocabulary.eosp)
            if not speaking:
                history.append(token)
            tokens = [token]

    @torch.inference_mode()
    def _step(self, tokens: Sequence[int], cache: Any) -> Tensor:
        batch = torch.tensor([tokens], device=cache.keys.device)
        logits: Tensor = self.model.lm_head(self.model.hidden(batch, cache)[0, -1])
        return logits

    def _classes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Bool (V,) each: what may be drawn inside speech, outside, and outside while it is too early to end."""
        vocabulary = self.vocabulary
        speech = torch.zeros(self.model.config.vocab_size, dtype=torch.bool)
        speech[list(vocabulary.units)] = True
        text = ~speech
        text[vocabulary.size :] = False  # rows that pad the embedding and have no token
        text[vocabulary.eosp] = False
        if vocabulary.bos is not None:
            text[vocabulary.bos] = False
        speech[vocabulary.eosp] = True
        early = text.clone()
        early[list(vocabulary.ends)] = False
        return speech, text, early


def load_published(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> PublishedModel:
    """Load a Hugging Face folder.

    Raises ModelNotFoundError for a missing folder or file, ConfigError for an architecture that is not plain LLaMA, and
    CheckpointError for weights or tokens that do not fit, each in one line.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} has no config.json: give the folder of a Hugging Face LLaMA model")
    config = _json(folder / "config.json")
    with torch.device("meta"):
        model = SemanticModel(SemanticConfig.from_hf(config)).to(dtype)
    load_strict(model, without_extras(read_weights(folder), model), folder)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    vocabulary = PublishedVocabulary.load(folder, config)
    if vocabulary.size > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {vocabulary.size} tokens, the weights {model.config.vocab_size}; "
            "take both from the same release"
        )
    return PublishedModel(model.to(device).eval().requires_grad_(False), vocabulary)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, from one file or from the shards that an index names."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return load_state(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = _json(index).get("weight_map")
            if not isinstance(places, dict) or not all(
                isinstance(p, str) and Path(p).name == p for p in places.values()
            ):
                raise CheckpointError(f"{index} names no shards beside it: copy it again")
            state: dict[str, Tensor] = {}
            for shard in sorted(set(places.values())):
                state.update(load_state(folder / shard))
            return state
    raise ModelNotFoundError(f"{folder} has no weights ({' or '.join(_WEIGHTS)}, or an index of shards)")


def without_extras(state: dict[str, Tensor], model: SemanticModel) -> dict[str, Tensor]:
    """Leave out what old versions of `transformers` stored and what can be computed."""
    tied = model.config.tie_word_embeddings
    return {
        key: value
        for key, value in state.items()
        if not key.endswith("rotary_emb.inv_freq") and not (tied and key == "lm_head.weight")
    }


def _add(tokenizer: Tokenizer, added: dict[str, Any], folder: Path) -> None:
    """Add the tokens of added_tokens.json, which must get the ids that it says."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    new = sorted((i, token) for token, i in added.items() if token not in known)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for _, token in new])
    wrong = [token for token, i in added.items() if tokenizer.token_to_id(token) != i]
    if wrong:
        raise CheckpointError(
            f"{folder / 'added_tokens.json'} gives {wrong[0]!r} the id {added[wrong[0]]}, the tokenizer beside it "
            f"{tokenizer.token_to_id(wrong[0])}: take both from the same release"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}): copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object: wrong file?")
    return content
