"""The letters that speech is read in."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Final

SYMBOLS: Final = "_ abcdefghijklmnopqrstuvwxyz'"
"""CTC symbols; index 0 is the blank, 1 the space between words."""
BLANK: Final = 0
SPACE: Final = 1


def spell(word: str) -> str:
    """The letters of a word that CTC knows."""
    return "".join(c for c in word.lower() if c in SYMBOLS[2:])


def spelled_words(text: str) -> list[str]:
    """The words of a text by their letters; those without any are passed over."""
    return [letters for letters in map(spell, text.split()) if letters]


def plainly(text: str) -> str:
    """A text as it is read: its words by their letters, between single spaces."""
    return " ".join(spelled_words(text))


def collapsed(symbols: Iterable[int]) -> str:
    """The text of a way through frames: what is repeated once, and no blanks."""
    return "".join(SYMBOLS[symbol] for symbol, _ in groupby(symbols) if symbol != BLANK)


def characters(text: str) -> list[int]:
    """CTC targets of a text: letters and apostrophes, single spaces."""
    return [SYMBOLS.index(c) for c in plainly(text)]
