"""The letters that speech is read in."""

from __future__ import annotations

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


def characters(text: str) -> list[int]:
    """CTC targets of a text: letters and apostrophes, single spaces."""
    return [SYMBOLS.index(c) for c in " ".join(spelled_words(text))]
