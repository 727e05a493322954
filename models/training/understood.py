"""What a semantic model writes down of the questions that it hears: what it answers where turns are restated, errors
and all."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch

from ..bundle import Bundle
from ..errors import EngineError
from ..semantic.decoder import LocalDecoder
from ..semantic.grammar import Grammar
from ..semantic.pieces import Transcript
from ..semantic.session import SemanticSession
from ..semantic.vocabulary import N_UNITS
from .corpus import Corpus, Utterance
from .extract import Spoken
from .parallel import ALONE, World
from .saving import replacing, room
from .synthesis.other_words import plain_words

_SHARE = 0.5


def understood(
    path: Path, start: Bundle, corpus: Corpus, spoken: dict[str, Spoken], world: World = ALONE
) -> dict[str, str]:
    """By utterance, what `start` writes down of a question of the training split, where that holds half of its words:
    less tells nobody what was asked.

    `path` keeps it, a JSON line each; what it holds already is not heard again. Raises UnsavedError when the disk is
    full.
    """
    questions = [u for u in corpus.split("train") if u.kind == "question"]
    if world.first:
        _write_down(path, start, questions, spoken)
    world.wait()
    written = _read(path)
    return {q.id: written[q.id] for q in questions if _tells(written[q.id], q.text)}


@torch.inference_mode()
def _write_down(path: Path, start: Bundle, questions: list[Utterance], spoken: dict[str, Spoken]) -> None:
    if path.is_file() and (parts := path.read_text().rpartition("\n"))[2]:  # a line that was not finished
        with replacing(path, "make room, and run it again") as unfinished:
            unfinished.write_text("".join(parts[:2]))
    done = _read(path)
    session = SemanticSession(
        LocalDecoder(start.semantic, Grammar(start.vocabulary)), restate=True, recognizer=start.recognizer
    )
    with room(path), path.open("a") as lines:
        for count, question in enumerate(questions):
            if question.id in done:
                continue
            heard = spoken[question.id]
            units = heard.units.astype("int64")
            if heard.detail is not None and start.semantic.config.detail:
                units = units + N_UNITS * heard.detail
            lines.write(json.dumps({"id": question.id, "text": _transcript(session, units.tolist())}) + "\n")
            if count % 100 == 99:
                lines.flush()
                print(f"wrote down {count + 1}/{len(questions)} questions", flush=True)


def _transcript(session: SemanticSession, units: list[int]) -> str:
    session.begin_turn()
    try:
        session.hear(units)
        understood = next(session.reply("text"))
    except EngineError:  # longer than the memory
        return ""
    assert isinstance(understood, Transcript)
    return understood.text


def _tells(written: str, text: str) -> bool:
    wanted = Counter(plain_words(text))
    found = wanted & Counter(plain_words(written))
    return found.total() >= max(1, _SHARE * wanted.total())


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: row["text"] for row in rows}
