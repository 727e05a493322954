"""The paper's claim put to the test: perceptual models trained alike but for chain and prior, over training steps and
evaluations (section 4.3 of arXiv 2401.13527: explicit against implicit chain, semantic against Gaussian prior).

Who judges is up to the caller: the units' reader on a bare machine (`slices/ablation.py`), listeners' stand-ins where
they are installed (`evaluation/ablation.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias

from torch import Tensor

from ..perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from ..perceptual.flow_matching import Chain, Prior, Solver
from ..speech_tokenizer.streaming import StreamingSpeechTokenizer
from . import perceptual_model, recipe
from .corpus import Corpus
from .loop import restore
from .perceptual_model import PerceptualRecipe
from .recordings import Recordings
from .samples import spoken_again
from .slices.judging import judged

EVALUATIONS: Final = (2, 4, 8, 16, 32)
"""Evaluations with which a variant is judged at its end."""
MEANWHILE: Final = 8
"""Evaluations with which it is judged before."""
SHARES: Final = (0.25, 0.5, 1.0)
"""Parts of the training after which a variant is judged."""
UTTERANCES: Final = 24

Line: TypeAlias = dict[str, Any]
Judge: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, float]]
"""From what was spoken again, (N,) at 16 kHz by utterance id, to its figures by name."""


@dataclass(frozen=True)
class Variant:
    """One cell of the comparison."""

    chain: Chain
    prior: Prior
    seed: int

    @property
    def name(self) -> str:
        return f"{self.chain}-{self.prior}-{self.seed}"


CELLS: Final[tuple[tuple[Chain, Prior], ...]] = (
    ("implicit", "semantic"),
    ("implicit", "gaussian"),
    ("explicit", "gaussian"),
)
"""An explicit chain adds v1 itself, so it has no semantic prior."""
VARIANTS: Final = tuple(Variant(chain, prior, seed) for seed, (chain, prior) in product((0, 1), CELLS))


@dataclass(frozen=True, eq=False)
class Bench:
    """What all variants share: the corpus, its codes (frames, n_q), how they are trained and who judges."""

    recordings: Recordings
    tokenizer: StreamingSpeechTokenizer
    codes: Tensor
    recipe: PerceptualRecipe
    prompt_frames: int
    judge: Judge

    def run(self, variant: Variant, folder: Path) -> tuple[list[Line], BlockCausalFlow]:
        """Train a variant in `folder`, an empty one, and judge it on the way: its lines, and the trained model."""
        config: BlockCausalConfig = replace(self.recipe.model, chain=variant.chain, prior=variant.prior)
        settings = replace(self.recipe, model=config, loop=replace(self.recipe.loop, seed=variant.seed))
        lines: list[Line] = []
        model = BlockCausalFlow(config)
        for share in SHARES:
            step = max(1, round(share * settings.loop.steps))
            perceptual_model.train(
                self.recordings.corpus,
                self.tokenizer,
                self.codes,
                folder,
                settings,
                device=str(self.recordings.device),
                until=step,
            )
            restore(model, folder)
            model.to(self.recordings.device)
            for nfe in EVALUATIONS if share == 1.0 else (MEANWHILE,):
                lines.append(
                    {"variant": variant.name, "chain": variant.chain, "prior": variant.prior, "seed": variant.seed}
                    | {"share": share, "step": step, "nfe": nfe}
                    | {name: round(value, 4) for name, value in self.judge(self._speak(model, nfe)).items()}
                )
                print(json.dumps(lines[-1]), flush=True)
        return lines, model

    def _speak(self, model: BlockCausalFlow, nfe: int) -> dict[str, Tensor]:
        return {
            u.id: spoken_again(
                self.recordings,
                self.tokenizer,
                model,
                self.codes,
                u,
                prompt_frames=self.prompt_frames,
                solver=Solver("euler", nfe),
            )
            for u in judged(self.recordings.corpus)[:UTTERANCES]
        }


def read(path: Path) -> list[Line]:
    """Lines of an `ablation.jsonl`."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, lines: Sequence[Line]) -> None:
    """Write lines as they are read."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def finished(lines: Sequence[Line]) -> list[Line]:
    """The lines of those variants that were trained to their end."""
    done = {line["variant"] for line in lines if line["share"] == 1.0}
    return [line for line in lines if line["variant"] in done]


def run_all(run: Path, settings: recipe.Recipe, judge: Callable[[Corpus], Judge]) -> Path:
    """Train and judge, on a run's tokenizer and codes, every variant that RUN/ablation/ablation.jsonl lacks.

    Returns that file. Raises ConfigError when the tokenizer has not been trained.
    """
    corpus = Corpus(run / "corpus")
    tokenizer = recipe.load_tokenizer(run, settings, corpus)
    codes = recipe.codes(run, corpus, tokenizer)
    device = recipe.device()
    bench = Bench(
        Recordings(corpus, device),
        tokenizer.to(device),
        codes.to(device),
        settings.ablation,
        settings.prompt_frames,
        judge(corpus),
    )
    path = run / "ablation" / "ablation.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = finished(read(path)) if path.is_file() else []
    done = {line["variant"] for line in lines}
    for variant in VARIANTS:
        if variant.name not in done:
            folder = path.parent / variant.name
            # What was stopped in the middle begins anew: its weights of earlier steps are gone, and were to be judged.
            shutil.rmtree(folder, ignore_errors=True)
            lines += bench.run(variant, folder)[0]
            write(path, lines)
    return path
