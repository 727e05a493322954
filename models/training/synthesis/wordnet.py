"""Sentences to hear: the examples of WordNet, as the `sentences.tsv` that `build.py` reads aloud.

    python -m speechgpt_gen.models.training.synthesis.wordnet /usr/share/wordnet TEXTS --beside CORPUS --count 15000

A corpus of conversations has a few thousand sentences, and a model that hears no others learns them rather than words.
WordNet (https://wordnet.princeton.edu, free for any use; Debian's `wordnet-base`) says how 20 thousand are used.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ...errors import ConfigError, SpeechGPTGenError
from ..sources import rows_of
from .other_words import plain_words

_SPOKEN: Final = re.compile(r"[A-Za-z][A-Za-z' ,\-?!]+")
_WORDS: Final = range(6, 19)
_CHARACTERS: Final = 110
_SHARED: Final = 5
"""A sentence that has so many words in a row of a held-out one would tell it."""


def examples(folder: Path) -> Iterator[str]:
    """Every example of use in WordNet's `data.*` that is a sentence of plain words, as it is written there.

    Raises ConfigError when the folder holds none of these tables.
    """
    tables = sorted(folder.glob("data.*"))
    if not tables:
        raise ConfigError(f"no data.noun and the like in {folder}: give the folder of WordNet's database")
    for table in tables:
        for line in table.read_text(encoding="latin-1").splitlines():
            gloss = line.partition("|")[2]
            for quoted in re.findall(r'"([^"]+)"', gloss):
                text = quoted.strip(" ;,.")
                plain = _SPOKEN.fullmatch(text) and not re.search("[A-Z]{2}", text)
                if plain and len(text.split()) in _WORDS and len(text) <= _CHARACTERS:
                    yield text


def sentences(found: Iterable[str], known: Iterable[str], held_out: Iterable[str], seed: int = 0) -> list[str]:
    """`found` as sentences, each once, shuffled; without those that are `known` or share five words with `held_out`."""
    runs = {run for text in held_out for run in _runs(text)}
    seen, made = {tuple(plain_words(text)) for text in known}, []
    for text in found:
        words = tuple(plain_words(text))
        if words not in seen and runs.isdisjoint(_runs(text)):
            seen.add(words)
            made.append(text[0].upper() + text[1:] + ("" if text[-1] in "?!" else "."))
    random.Random(seed).shuffle(made)
    return made


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = plain_words(text)
    return (tuple(words[n : n + _SHARED]) for n in range(len(words) - _SHARED + 1))


def main() -> None:
    """Write `TEXTS/sentences.tsv`."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("wordnet", type=Path, help="folder of data.noun and the like")
    parser.add_argument("texts", type=Path, help="folder to write sentences.tsv into")
    parser.add_argument("--beside", type=Path, help="corpus whose manifest.tsv says what is known and held out")
    parser.add_argument("--count", type=int, default=15_000)
    given = parser.parse_args()
    try:
        rows = rows_of(given.beside / "manifest.tsv", ("split", "text")) if given.beside else []
        held_out = [row["text"] for row in rows if row["split"] == "valid"]
        made = sentences(examples(given.wordnet), (row["text"] for row in rows), held_out)[: given.count]
        given.texts.mkdir(parents=True, exist_ok=True)
        lines = [f"wordnet{number:05d}\t{text}\n" for number, text in enumerate(made)]
        (given.texts / "sentences.tsv").write_text("id\ttext\n" + "".join(lines), encoding="utf-8")
    except (SpeechGPTGenError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(made)} sentences in {given.texts / 'sentences.tsv'}")


if __name__ == "__main__":
    main()
