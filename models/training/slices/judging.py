"""How a slice judges what it made without any model from outside: by the reader that supervises the units."""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...perceptual.block_causal import BlockCausalFlow
from ...perceptual.flow_matching import Solver
from ...perceptual.streaming import solve_offline
from ...speech_tokenizer.semantic_encoder import UNITS
from ...speech_tokenizer.streaming import StreamingSpeechTokenizer
from .. import semantic_units
from ..corpus import Corpus, Utterance
from ..recordings import Recordings

SOLVER = Solver("euler", 6)
"""The one that bundles use."""
JUDGED = 64
"""Held-out utterances that are made and read."""


def judged(corpus: Corpus) -> list[Utterance]:
    """Held-out utterances, evenly taken and the same each time."""
    pool = corpus.split("valid") or corpus.utterances
    return pool[:: max(1, len(pool) // JUDGED)][:JUDGED]


@torch.inference_mode()
def reconstructed(recordings: Recordings, tokenizer: StreamingSpeechTokenizer, u: Utterance) -> Tensor:
    """The utterance through all levels of codes, (N,) on the CPU."""
    codes = tokenizer.encode(recordings.audio([u])[:, None])
    return tokenizer.decode(tokenizer.latents(codes))[0, 0].float().cpu()


@torch.inference_mode()
def spoken_again(
    recordings: Recordings,
    tokenizer: StreamingSpeechTokenizer,
    model: BlockCausalFlow,
    codes: Tensor,
    u: Utterance,
    *,
    detail: Tensor | None = None,
    prompt_frames: int,
    solver: Solver = SOLVER,
) -> Tensor:
    """The utterance from its units alone, (N,) on the CPU, in the voice of another recording of its speaker.

    codes: of the whole corpus (frames, n_q); detail: of its units (frames,); prompt_frames: length of the voice prompt.
    """

    def of(which: Utterance, frames: int) -> tuple[Tensor, Tensor]:
        own = recordings.rows(codes, [which], frames, [0]).long().permute(2, 0, 1)
        units = own[0]
        if detail is not None:
            units = units + UNITS * recordings.rows(detail, [which], frames, [0])
        return tokenizer.latents(own), tokenizer.semantics(units)

    same = (each for each in recordings.corpus.utterances if each.speaker == u.speaker and each.id != u.id)
    voice = next((each for each in same if each.frames >= prompt_frames), None)
    prompt = None
    if voice is not None:
        latents, v1 = of(voice, prompt_frames)
        prompt = latents[0], v1[0]
    made = solve_offline(model, of(u, u.frames)[1], seed=0, solver=solver, prompt=prompt)
    return tokenizer.decode(made)[0, 0].float().cpu()


def character_error_rate(reader: semantic_units.SemanticUnits, made: Mapping[str, Tensor], corpus: Corpus) -> float:
    """Of waveforms by utterance id, as the reader reads them; a figure to compare runs by, not a listener's."""
    wrong = total = 0
    device = next(reader.parameters()).device
    reader.eval()
    for name, wav in made.items():
        (read,) = semantic_units.transcribe(reader, wav.to(device)[None], [-(-len(wav) // 320)])
        truth = "".join(semantic_units.SYMBOLS[c] for c in semantic_units.characters(corpus.by_id[name].text))
        wrong += semantic_units.edits(read, truth)
        total += len(truth)
    return wrong / max(1, total)


def write_samples(path: Path, made: Sequence[Tensor]) -> None:
    """Utterances one after another, half a second apart, as a 16 kHz WAV."""
    joined = torch.cat([torch.cat([wav, torch.zeros(8000)]) for wav in made])
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((joined.clamp(-1, 1) * 32767).short().numpy().tobytes())
