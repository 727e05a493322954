"""Other words for what a corpus asks: its question templates, rephrased by hand (`other_words.toml`).

A model hears each question of a template in a dozen ways when it is trained, and in any way when it is used. What these
add costs no recording: pairs are learnt as text too (`semantic_model.SemanticRecipe.chat`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_ANY = "*"
"""Stands for every known question of a template."""


@cache
def _tables() -> dict[str, dict[str, list[str]]]:
    """Template -> `known` questions and other ways to `ask`, both with slots."""
    return dict(_flat(tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))))


@cache
def _templates() -> dict[str, tuple[tuple[re.Pattern[str], ...], tuple[str, ...]]]:
    """Template -> patterns that known questions match, and the ways to ask, with the patterns' slots."""
    return {name: (tuple(map(_pattern, table["known"])), tuple(table["ask"])) for name, table in _tables().items()}


def templates() -> tuple[str, ...]:
    """Names of all templates that are known."""
    return tuple(_tables())


@cache
def wordings(template: str) -> tuple[str, ...]:
    """Every way to ask a template's question, its slots open; none for a template that is not known."""
    table = _tables().get(template, {"known": [], "ask": []})
    return (*(known for known in table["known"] if known != _ANY), *table["ask"])


def ways_of(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Other words for the question of each row of `pairs.tsv` that is trained on; none that a held-out one has."""
    kept = {tuple(plain_words(row["question"])) for row in rows if row.get("split") == "valid"}
    return [
        [way for way in other_words(row.get("template", ""), row["question"]) if tuple(plain_words(way)) not in kept]
        if (row.get("split") or "train") == "train"
        else []
        for row in rows
    ]


def plain_words(text: str) -> list[str]:
    """Words in lower case without punctuation, by which texts are told to be the same."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def _flat(tables: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, list[str]]]]:
    """`[a.b]` of TOML by its whole name; `[a]` and `[a.b]` may both be templates."""
    for name, table in tables.items():
        if "ask" in table:
            yield prefix + name, {key: table[key] for key in ("known", "ask")}
        yield from _flat({key: inner for key, inner in table.items() if isinstance(inner, dict)}, f"{prefix}{name}.")


def _pattern(known: str) -> re.Pattern[str]:
    if known == _ANY:
        return re.compile(".*")
    parts = re.split(r"\{(\w+)\}", known)
    return re.compile("".join(f"(?P<{part}>.+?)" if n % 2 else re.escape(part) for n, part in enumerate(parts)))


def other_words(template: str, question: str) -> list[str]:
    """Other ways to ask a question of a template; none for a template or a wording that is not known."""
    patterns, ask = _templates().get(template, ((), ()))
    found = next((match for pattern in patterns if (match := pattern.fullmatch(question))), None)
    if found is None:
        return []
    ways = (way.format(**found.groupdict()) for way in ask)
    return [way[:1].upper() + way[1:] for way in ways]
