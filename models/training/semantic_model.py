"""The semantic model's training: one network learns to listen, to answer and to speak."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ..semantic.hugging_face import extend_llama
from ..semantic.llama import SemanticModel
from ..semantic.sequences import IGNORED
from ..semantic.vocabulary import N_UNITS, SpeechVocabulary
from ..speech_tokenizer.detail import levels_of
from .corpus import Corpus, Utterance
from .documents import Builder, Packed, PackedBatches, documents
from .extract import Spoken
from .loop import Loop
from .lora import add_lora_
from .parallel import ALONE, World, shard
from .precision import mixed
from .samples import played, read_aloud
from .semantic_recipe import SemanticRecipe, model_config


def weighted_loss(
    model: SemanticModel, vocabulary: SpeechVocabulary, batch: Packed, recipe: SemanticRecipe
) -> dict[str, Tensor]:
    """Mean cross-entropy where something is asked, weighted by kind of target, and its parts by kind.

    Where the units that are said have detail and the model knows of it, the mean of its digits' is added.
    """
    asked = (batch.targets.flatten() != IGNORED).nonzero()[:, 0]
    detail = batch.targets.flatten()[asked] // vocabulary.size
    truth = batch.targets.flatten()[asked] % vocabulary.size
    # Padded to few lengths: oneDNN keeps a plan for every shape that a product ever had, gigabytes after an hour.
    padded = F.pad(asked, (0, -len(asked) % 512))
    with mixed(batch.tokens.device):
        states = model.hidden(batch.tokens, mask=batch.mask()).flatten(0, 1)[padded]
        logits = model.lm_head(states)[: len(asked)]
        told = (detail > 0).nonzero()[:, 0]
        digits = None
        if model.detail_head is not None and len(told):
            rows = F.pad(told, (0, -len(told) % 512))
            digits = model.detail_logits(states[rows], truth[rows])[: len(told)]
    each = F.cross_entropy(logits.float(), truth, reduction="none")
    listen, text = truth == vocabulary.listen, truth < vocabulary.n_text
    unit = (truth >= vocabulary.n_text) & (truth < vocabulary.n_text + N_UNITS)
    weight = torch.where(listen, recipe.listen_weight, torch.where(text, recipe.text_weight, 1.0))

    def mean(mask: Tensor) -> Tensor:
        return each[mask].sum() / mask.sum().clamp_min(1)

    loss = (each * weight).sum() / weight.sum()
    parts = {"listen": mean(listen), "text": mean(text), "unit": mean(unit)}
    if digits is not None:
        levels = levels_of(detail[told], model.config.detail)
        parts["detail"] = F.cross_entropy(digits.float().flatten(0, 1), levels.flatten())
        loss = loss + recipe.detail_weight * parts["detail"]
    return {"loss": loss, **parts}


def train(
    corpus: Corpus,
    spoken: dict[str, Spoken],
    folder: Path,
    recipe: SemanticRecipe,
    *,
    device: str = "cpu",
    noisy: Sequence[dict[str, Spoken]] = (),
    understood: Mapping[str, str] = MappingProxyType({}),
    start: SemanticModel | None = None,
    detail: int = 0,
    compiled: bool = False,
    workers: int = 0,
    budget: float | None = None,
    until: int | None = None,
    sound: Callable[[Tensor], Tensor] | None = None,
    world: World = ALONE,
) -> tuple[SemanticModel, SpeechVocabulary]:
    """Train the semantic model in `folder`, resuming from its checkpoint.

    noisy: the same recordings as heard through noise; understood: what a model wrote down of questions;
    start: a model to go on from, whose vocabulary lies in `folder`;
    detail: digits of the detail of what is heard, which `start` may not know yet;
    workers: processes that build batches; budget: seconds that it may take;
    sound: of units (T,), (N,) at 16 kHz, to hear what the model reads aloud when it is judged; in one process only.
    """
    torch.manual_seed(recipe.loop.seed)
    folder.mkdir(parents=True, exist_ok=True)
    base = None if recipe.base is None else extend_llama(Path(recipe.base))
    if world.first and not (folder / "vocabulary.json").is_file():
        if base is None:
            made = SpeechVocabulary.train_bpe((u.text for u in corpus.split("train")), recipe.text_tokens)
        else:
            made = base[1]
        made.save(folder)
    world.wait()
    vocabulary = SpeechVocabulary.load(folder)
    model = SemanticModel(model_config(recipe, vocabulary, detail))
    if before := start or (base[0] if base else None):
        model.load_state_dict(model.state_dict() | before.state_dict())
    model.to(device)
    if recipe.lora_rank:
        add_lora_(model, recipe.lora_rank, recipe.lora_alpha)
    if world.size > 1:
        shard(model, list(model.model.layers), ["hidden"])
    if compiled:
        model.model.compile(dynamic=False)
    builder = Builder(corpus, spoken, vocabulary, recipe, noisy)
    batches = PackedBatches(
        builder, documents(corpus, spoken, vocabulary, recipe, "train", understood=understood), recipe
    )
    held_out = documents(corpus, spoken, vocabulary, recipe, "valid")
    plainly = replace(recipe, unit_noise=0.0, near_units=0.0, lost_units=0.0, misheard=0.0)
    clean = Builder(corpus, spoken, vocabulary, plainly)
    judged = PackedBatches(clean, held_out, plainly) if held_out else None

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        if judged is None:
            return {}
        parts = [weighted_loss(model, vocabulary, _moved(judged[n], device), recipe) for n in range(4)]
        return {name: sum(float(part[name]) for part in parts) / len(parts) for name in parts[0]}

    def read(u: Utterance) -> Tensor:
        assert sound is not None
        return sound(read_aloud(model, vocabulary, u.text))

    loop = Loop(
        folder,
        model,
        recipe.loop,
        budget=budget,
        evaluate=evaluate,
        evaluate_every=recipe.evaluate_every,
        listen=None if sound is None or world.size > 1 else lambda: played(corpus, read),
        world=world,
    )
    step = recipe.loop.accumulate * world.size
    numbers = range(loop.step * step + world.rank, recipe.loop.steps * step, world.size)
    stream = iter(DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers))
    loop.run(lambda step: weighted_loss(model, vocabulary, _moved(next(stream), device), recipe), until=until)
    return model, vocabulary


def _moved(batch: Packed, device: str) -> Packed:
    return Packed(*(each.to(device, non_blocking=True) for each in batch))
