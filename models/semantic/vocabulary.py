"""The semantic model's one alphabet: text (BPE), semantic units, and the tokens that hold a conversation together."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ..errors import CheckpointError, ModelNotFoundError

N_UNITS: Final = 1024
SPECIALS: Final = (
    "<pad>",
    "<sosp>",
    "<eosp>",
    "[Human]",
    "[SpeechGPT]",
    "<eoh>",
    "<eos>",
    "[ta]",
    "[ua]",
    "<listen>",
    "[System]",
)
WORD_START: Final = "\u2581"
_ALPHABET: Final = [WORD_START, *(chr(c) for c in range(0x21, 0x7F))]
_FOLDED: Final = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        "\u00df": "ss",
        "\u00e6": "ae",
        "\u00c6": "AE",
        "\u0153": "oe",
        "\u0152": "OE",
        "\u00f8": "o",
        "\u00d8": "O",
        "\u0142": "l",
        "\u0141": "L",
        "\u0111": "d",
        "\u0110": "D",
        "\u0131": "i",
    }
)


def to_ascii(text: str) -> str:
    """Fold text to printable ASCII with single spaces: accents go, quotes and dashes turn plain, the rest goes."""
    folded = unicodedata.normalize("NFKD", text.translate(_FOLDED)).translate(_FOLDED)
    kept = "".join(c if " " < c <= "~" else " " if c.isspace() else "" for c in folded)
    return " ".join(kept.split())


class SpeechVocabulary:
    """Text tokens first, then `<0>`..`<1023>`, then the specials in the order of `SPECIALS`.

    Only text from outside goes through the tokenizer, and the specials are not in it: somebody who types `<eos>` gets
    five characters, never the token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.n_text: int = tokenizer.get_vocab_size()
        self._pieces = [(tokenizer.id_to_token(i) or "").replace(WORD_START, " ") for i in range(self.n_text)]
        self._characters: dict[str, int] = {}
        for character in _ALPHABET[1:]:
            token = tokenizer.token_to_id(character)
            if token is not None:
                self._characters[character] = token
        missing = [c for c in _ALPHABET[1:] if c not in self._characters]
        if missing:
            raise CheckpointError(f"the vocabulary lacks the characters {' '.join(missing)}; rebuild it with train_bpe")
        self._words: dict[str, list[int]] = {}
        first = self.n_text + N_UNITS
        self.size: int = first + len(SPECIALS)
        self.pad, self.sosp, self.eosp, self.human, self.speechgpt = range(first, first + 5)
        self.eoh, self.eos, self.ta, self.ua, self.listen, self.system = range(first + 5, first + 11)

    # Text

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` folded to ASCII, with the word-start marker before each word, so words never merge."""
        return [i for word in to_ascii(text).split() for i in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        ids = self._words.get(word)
        if ids is None:
            ids = list(self._tokenizer.encode(word, add_special_tokens=False).ids)
            if len(self._words) < 50_000:
                self._words[word] = ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the text tokens among `ids` (others are skipped), without the leading space."""
        return "".join(self.piece(i) for i in ids).removeprefix(" ")

    def piece(self, token: int) -> str:
        """The characters of one token, with a leading space when it starts a word; empty for units and specials."""
        return self._pieces[token] if token < self.n_text else ""

    def spell(self, word: str) -> list[int]:
        """The lower-cased word as single-character tokens, its punctuation included: "It's," -> i t ' s ,"""
        return [self._characters[c] for c in to_ascii(word).lower() if c != " "]

    @cached_property
    def text_ids(self) -> torch.Tensor:
        """Bool (size,): which ids are text."""
        return torch.arange(self.size) < self.n_text

    @cached_property
    def character_ids(self) -> torch.Tensor:
        """Bool (size,): which ids `spell` can give."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[sorted(set(self.spell("".join(self._characters))))] = True
        return mask

    # Units

    def unit(self, index: int) -> int:
        """Token id of semantic unit `index` (0..1023)."""
        if not 0 <= index < N_UNITS:
            raise ValueError(f"semantic unit {index} is outside 0..{N_UNITS - 1}")
        return self.n_text + index

    def told(self, index: int) -> int:
        """The token of a unit with its detail (`speech_tokenizer/detail.py`): plain, plus `size` times the detail.

        A model whose config has `detail` hears and speaks such numbers; one without takes plain units alone.
        """
        detail, unit = divmod(index, N_UNITS)
        return self.unit(unit) + self.size * detail

    def is_unit(self, token: int) -> bool:
        """Whether a token is a unit, with or without detail."""
        return self.n_text <= token % self.size < self.n_text + N_UNITS

    def unit_index(self, token: int) -> int:
        """Semantic unit of a unit token, with the detail that the token has: the inverse of `told`."""
        if not self.is_unit(token):
            raise ValueError(f"token {token} is not a semantic unit")
        detail, plain = divmod(token, self.size)
        return plain - self.n_text + N_UNITS * detail

    # Files

    @classmethod
    def train_bpe(cls, texts: Iterable[str], size: int = 2000) -> SpeechVocabulary:
        """Learn at most `size` text tokens from `texts`; every printable ASCII character is one of them."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=_ALPHABET, show_progress=False)
        tokenizer.train_from_iterator((to_ascii(text) for text in texts), trainer)
        return cls(tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` (text) and `vocabulary.json` (the order of everything) into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "vocabulary.json").write_text(json.dumps(self._layout(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> SpeechVocabulary:
        """Read what `save` wrote. Raises ModelNotFoundError for a missing file, CheckpointError for a wrong one."""
        folder = Path(folder)
        for name in ("tokenizer.json", "vocabulary.json"):
            if not (folder / name).is_file():
                raise ModelNotFoundError(f"{folder} has no {name}; is it a SpeechGPT-Gen model folder?")
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            layout = json.loads((folder / "vocabulary.json").read_text())
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"cannot read the vocabulary in {folder}: {error}") from error
        vocabulary = cls(tokenizer)
        if layout != vocabulary._layout():
            raise CheckpointError(
                f"{folder / 'vocabulary.json'} does not describe this vocabulary (tokens or their order differ)"
            )
        return vocabulary

    def _layout(self) -> dict[str, int | Sequence[str]]:
        return {"text": self.n_text, "units": N_UNITS, "specials": list(SPECIALS)}
