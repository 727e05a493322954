"""What a run sounds like: held-out utterances made again by what is trained so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from ..errors import TextError
from ..perceptual.block_causal import BlockCausalFlow
from ..perceptual.flow_matching import Solver
from ..perceptual.streaming import solve_offline
from ..semantic.decoder import LocalDecoder
from ..semantic.grammar import Grammar
from ..semantic.llama import SemanticModel
from ..semantic.pieces import Unit
from ..semantic.session import SemanticSession
from ..semantic.vocabulary import SpeechVocabulary
from ..speech_tokenizer.semantic_encoder import UNITS
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from .corpus import Corpus, Utterance
from .recordings import Recordings

SOLVER = Solver("euler", 6)
"""The one that bundles use."""
PROMPT_FRAMES = 150
PLAYED = 4
"""Utterances that are heard each time a run is judged."""
_PAUSE = 8000
"""Samples between them."""
_LONGEST = 500
"""Units of a text that are heard: a young model may not find its end."""


def held_out(corpus: Corpus) -> list[Utterance]:
    """What no step trains on; everything, where nothing is held out."""
    return corpus.split("valid") or corpus.utterances


def evenly(pool: Sequence[Utterance], count: int) -> list[Utterance]:
    """About so many of them, evenly taken and the same each time."""
    return list(pool[:: max(1, len(pool) // count)][:count])


def played(corpus: Corpus, make: Callable[[Utterance], Tensor]) -> Tensor:
    """A few held-out utterances as `make` makes them, (N,) on the CPU, one after another."""
    pool = held_out(corpus)
    return in_a_row([make(u) for u in evenly([u for u in pool if u.text] or pool, PLAYED)])


def in_a_row(made: Sequence[Tensor]) -> Tensor:
    """Waveforms (N,) one after another, half a second apart."""
    return torch.cat([torch.cat([wav, wav.new_zeros(_PAUSE)]) for wav in made])


@torch.inference_mode()
def reconstructed(recordings: Recordings, tokenizer: StreamingSpeechTokenizer, u: Utterance) -> Tensor:
    """The utterance through all levels of codes, (N,) on the CPU."""
    codes = tokenizer.encode(recordings.audio([u])[:, None])
    return tokenizer.decode(tokenizer.latents(codes))[0, 0].float().cpu()


@torch.no_grad()
def spoken_again(
    recordings: Recordings,
    tokenizer: StreamingSpeechTokenizer,
    model: BlockCausalFlow,
    codes: Tensor,
    u: Utterance,
    *,
    detail: Tensor | None = None,
    prompt_frames: int = PROMPT_FRAMES,
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


@torch.no_grad()
def read_aloud(model: SemanticModel, vocabulary: SpeechVocabulary, text: str) -> Tensor:
    """A text as a semantic model reads it, ten seconds at most: units (T,) int64, with their detail if it tells any.
    None of a text that has nothing to speak."""
    session = SemanticSession(LocalDecoder(model, Grammar(vocabulary)))
    said = (piece.index for piece in session.say(text) if isinstance(piece, Unit))
    try:
        return torch.tensor(list(islice(said, _LONGEST)), dtype=torch.int64)
    except TextError:
        return torch.zeros(0, dtype=torch.int64)


@torch.no_grad()
def units_alone(tokenizer: StreamingSpeechTokenizer, units: Tensor) -> Tensor:
    """Units (T,) as they sound without a perceptual model: by codebook 0, (N,) on the CPU."""
    latents = tokenizer.semantic_latents(units[None].to(tokenizer.codebooks.vectors.device) % UNITS)
    return tokenizer.decode(latents)[0, 0].float().cpu()
