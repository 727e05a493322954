"""How a slice judges what it made without any model from outside: by the reader that supervises the units."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...recognition.letters import plainly
from .. import semantic_units
from ..corpus import Corpus, Utterance
from ..samples import evenly, held_out

JUDGED = 64
"""Held-out utterances that are made and read."""


def judged(corpus: Corpus) -> list[Utterance]:
    """Held-out utterances, evenly taken and the same each time."""
    return evenly(held_out(corpus), JUDGED)


def character_error_rate(reader: semantic_units.SemanticUnits, made: Mapping[str, Tensor], corpus: Corpus) -> float:
    """Of waveforms by utterance id, as the reader reads them; a figure to compare runs by, not a listener's."""
    wrong = total = 0
    device = next(reader.parameters()).device
    reader.eval()
    for name, wav in made.items():
        (read,) = semantic_units.transcribe(reader, wav.to(device)[None], [-(-len(wav) // 320)])
        truth = plainly(corpus.by_id[name].text)
        wrong += semantic_units.edits(read, truth)
        total += len(truth)
    return wrong / max(1, total)
