"""What goes into and comes out of the semantic model, piece by piece."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One earlier turn of the conversation, as text."""

    role: Role
    text: str


@dataclass(frozen=True)
class Transcript:
    """More of what the user said: new text that continues the transcript so far."""

    text: str


@dataclass(frozen=True)
class Text:
    """More of the answer as planned, before it is spoken; pieces concatenate to the whole answer."""

    text: str


@dataclass(frozen=True)
class Word:
    """The word that is spoken from `frame` on (20 ms frames = units since the answer began)."""

    text: str
    frame: int


@dataclass(frozen=True)
class Unit:
    """One semantic unit (RVQ-1 index, 20 ms) of the answer."""

    index: int


Piece = Transcript | Text | Word | Unit
