"""Reads LLaMA's `tokenizer.model` (a SentencePiece BPE model, protobuf) without the sentencepiece library.

Source: sentencepiece_model.proto; the merges are recovered from the pieces' scores, as the piece of a merge is scored
by when it was learned.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from ..errors import CheckpointError
from .vocabulary import WORD_START

_BPE: Final = 2
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3


def load_sentencepiece(path: Path) -> Tokenizer:
    """A tokenizer with the ids of a SentencePiece BPE model, byte fallback included.

    Raises CheckpointError when the file is no SentencePiece model or one of another kind.
    """
    pieces: list[tuple[str, float, int]] = []
    kind = 1
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif number == 2 and isinstance(value, bytes):
                kind = next((v for n, v in _fields(value) if n == 3 and isinstance(v, int)), kind)
    except (IndexError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path} is no SentencePiece model or is truncated: copy it again") from error
    if not pieces or kind != _BPE:
        raise CheckpointError(f"{path} is no SentencePiece BPE model: only LLaMA's kind of tokenizer.model can be read")
    vocabulary = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    unknown = next((piece for piece, _, kind in pieces if kind == _UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(pieces, vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(WORD_START), normalizers.Replace(" ", WORD_START)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(WORD_START, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(p, normalized=False) for p, _, kind in pieces if kind in (_UNKNOWN, _CONTROL)]
    )
    return tokenizer


def _piece(message: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, _NORMAL
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    return text, score, kind


def _merges(pieces: list[tuple[str, float, int]], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    found: list[tuple[float, int, int, str, str]] = []
    for piece, score, kind in pieces:
        if kind != _NORMAL:
            continue
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Field numbers and values of a protobuf message. Raises IndexError or ValueError for what is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size = varint()
        if size is None or at + size > len(message):
            raise ValueError("not a protobuf message")
        chunk = message[at : at + size]
        at += size
        if wire == 2:
            yield key >> 3, chunk
        else:
            yield key >> 3, float(struct.unpack("<f" if wire == 5 else "<d", chunk)[0])
