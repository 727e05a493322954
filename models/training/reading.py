"""What a finished encoder knows, made use of: a linear layer that finds words in it, and the detail that listeners get.

The encoder runs once over some of the corpus; what is fitted to its states afterwards is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..recognition.letters import SYMBOLS, characters
from ..speech_tokenizer.semantic_encoder import SemanticEncoder
from .augment import augment
from .corpus import Corpus, Utterance
from .precision import mixed
from .recordings import Recordings
from .saving import save_tensors
from .semantic_units import SemanticUnits, batches_of, ctc

_Known = Sequence[tuple[Tensor, list[Utterance]]]
"""States (B, T, dim) in half precision, and what was said in each row."""


def learn_to_read(
    corpus: Corpus, module: SemanticUnits, *, seconds: float = 1800.0, epochs: int = 12, rate: float = 5e-3
) -> float:
    """Fit `early` alone, to an encoder that stays as it is; returns its last CTC loss in nats a character.

    What the encoder knows of `seconds` of the training split is enough for a linear layer.
    """
    torch.manual_seed(0)
    known = _known(corpus, module.encoder, seconds)
    return _fit(known, list(module.early.parameters()), module.early, epochs, rate)


def give_detail(path: Path, corpus: Corpus, encoder: SemanticEncoder, before: SemanticEncoder | None) -> None:
    """Detail for an encoder, made once and kept in `path`: that of an encoder before it whose units it keeps, as far as
    it hears that too, or one of its own."""
    assert encoder.detail is not None
    if path.is_file():
        encoder.detail.load_state_dict(load_file(path))
        return
    if before is not None and before.detail is not None:
        follow_detail(corpus, encoder, before)
    else:
        print(f"learns detail: CTC {learn_detail(corpus, encoder):.2f}")
    save_tensors(encoder.detail.state_dict(), path)


def learn_detail(
    corpus: Corpus, encoder: SemanticEncoder, *, seconds: float = 7200.0, epochs: int = 8, rate: float = 5e-3
) -> float:
    """Fit the encoder's detail: digits that a linear layer reads best, half of them in noise; everything else stays.

    Returns the last CTC loss in nats a character.
    """
    torch.manual_seed(0)
    assert encoder.detail is not None
    detail = encoder.detail.requires_grad_(True).train()
    reader = nn.Linear(len(detail.project.bias), len(SYMBOLS)).to(detail.project.weight.device)
    known = [*_known(corpus, encoder, seconds / 2), *_known(corpus, encoder, seconds / 2, np.random.default_rng(0))]

    def read(hidden: Tensor) -> Tensor:
        return reader(detail.quantizer(detail.digits(hidden))[0])  # type: ignore[no-any-return]

    loss = _fit(known, [*detail.parameters(), *reader.parameters()], read, epochs, rate)
    detail.eval()
    return loss


@torch.no_grad()
def follow_detail(
    corpus: Corpus, encoder: SemanticEncoder, before: SemanticEncoder, *, seconds: float = 1800.0
) -> None:
    """Give an encoder the detail of that before it, whose units it keeps: by least squares, the digits that one heard.

    What learnt from them need not learn anew.
    """
    made, told = encoder.detail, before.detail
    assert made is not None
    assert told is not None
    before.to(next(encoder.parameters()).device)
    made.load_state_dict(told.state_dict())
    ours = torch.cat([hidden.flatten(0, 1) for hidden, _ in _known(corpus, encoder, seconds)]).double()
    theirs = torch.cat([hidden.flatten(0, 1) for hidden, _ in _known(corpus, before, seconds)]).float()
    wanted = told.project(theirs).double()
    ones = ours.new_ones(len(ours), 1)
    ours = torch.cat((ours, ones), 1)
    gram = ours.T @ ours
    gram.diagonal().add_(1e-4 * gram.diagonal().mean())
    found = torch.linalg.solve(gram, ours.T @ wanted).float()
    made.project.weight.copy_(found[:-1].T)
    made.project.bias.copy_(found[-1])


@torch.no_grad()
def _known(
    corpus: Corpus, encoder: SemanticEncoder, seconds: float, noise: np.random.Generator | None = None
) -> _Known:
    """What an encoder knows of so many seconds of the training split, taken evenly; through `noise`, if given."""
    encoder = deepcopy(encoder).eval()
    training = [u for u in corpus.split("train") if characters(u.text)]
    total = sum(u.frames for u in training) / 50
    chosen = training[:: max(1, round(total / seconds))]
    recordings = Recordings(corpus, next(encoder.parameters()).device)
    batches = batches_of(chosen, 100.0, 0, fill=False)
    known: list[tuple[Tensor, list[Utterance]]] = []
    for step in range(batches.per_epoch):
        part = [chosen[i] for i in batches(step)]
        wav = recordings.audio(part)
        mel = encoder.mel_frames(wav if noise is None else augment(wav, noise))
        with mixed(mel.device):
            known.append((encoder.hidden(mel).half(), part))
    return known


def _fit(
    known: _Known, parameters: list[nn.Parameter], read: Callable[[Tensor], Tensor], epochs: int, rate: float
) -> float:
    """Fit parameters of a reader of states to what was said; the mean CTC loss of the last epoch."""
    optimizer = torch.optim.Adam(parameters)
    loss = 0.0
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
        loss = 0.0
        for number in np.random.default_rng(epoch).permutation(len(known)):
            hidden, part = known[number]
            value = ctc(read(hidden.float()), part)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss += float(value.detach()) / len(known)
    return loss
