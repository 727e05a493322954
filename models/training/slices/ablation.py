"""The paper's claim put to the test: perceptual models trained alike but for chain and prior, over training steps and
evaluations (section 4.3 of arXiv 2401.13527: explicit against implicit chain, semantic against Gaussian prior).

Every variant leaves lines in `ablation.jsonl`; a later slice goes on with the variants that are not there yet. The
weights of the first seed come along, so that their sound can be judged by others than our own reader.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ...errors import ConfigError
from ...perceptual.block_causal import BlockCausalConfig, BlockCausalFlow
from ...perceptual.flow_matching import Chain, Prior, Solver
from ...speech_tokenizer.streaming import StreamingSpeechTokenizer
from .. import perceptual_model, semantic_units
from ..corpus import Utterance
from ..recipe import restore
from ..recordings import Recordings
from .judging import character_error_rate, judged, spoken_again
from .machine import Machine
from .pieces import write_pieces

EVALUATIONS: Final = (2, 4, 8, 16, 32)
SHARES: Final = (0.25, 0.5, 1.0)
"""Parts of the training after which a variant is judged."""
UTTERANCES: Final = 24


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
    """What all variants share."""

    machine: Machine
    recordings: Recordings
    tokenizer: StreamingSpeechTokenizer
    reader: semantic_units.SemanticUnits
    codes: Tensor
    recipe: perceptual_model.PerceptualRecipe
    prompt_frames: int
    units: str


def run_variants(bench: Bench, work: Path, out: Path, earlier: Sequence[Path]) -> dict[str, float]:
    """Train and judge as many variants as there is time for; those that `earlier` folders hold are taken over."""
    lines = [line for folder in earlier for path in folder.rglob("ablation.jsonl") for line in _read(path)]
    for folder in earlier:
        for path in folder.rglob("variant-*.safetensors"):
            if path.parent.resolve() != out.resolve():
                (out / path.name).write_bytes(path.read_bytes())
    done = {line["variant"] for line in lines if line["share"] == 1.0}
    lines = [line for line in lines if line["variant"] in done]
    _write(out / "ablation.jsonl", lines)
    longest = 0.0
    for variant in VARIANTS:
        if variant.name in done or (longest and bench.machine.left < 1.1 * longest):
            continue
        before = bench.machine.spent
        lines += _train(bench, variant, work / variant.name, out)
        done.add(variant.name)
        longest = max(longest, bench.machine.spent - before)
        _write(out / "ablation.jsonl", lines)
    return {"variants": float(len(done)), "variants_wanted": float(len(VARIANTS))}


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _train(bench: Bench, variant: Variant, folder: Path, out: Path) -> list[dict[str, Any]]:
    config: BlockCausalConfig = replace(bench.recipe.model, chain=variant.chain, prior=variant.prior)
    recipe = replace(bench.recipe, model=config, loop=replace(bench.recipe.loop, seed=variant.seed))
    lines: list[dict[str, Any]] = []
    model = BlockCausalFlow(config)
    for share in SHARES:
        step = max(1, round(share * recipe.loop.steps))
        perceptual_model.train(
            bench.recordings.corpus,
            bench.tokenizer,
            bench.codes,
            folder,
            recipe,
            device=bench.machine.device,
            until=step,
        )
        restore(model, folder)
        model.to(bench.machine.device)
        for nfe in EVALUATIONS:
            cer = _judge(bench, model, Solver("euler", nfe), judged(bench.recordings.corpus)[:UTTERANCES])
            lines.append(
                {"variant": variant.name, "chain": variant.chain, "prior": variant.prior, "seed": variant.seed}
                | {"share": share, "step": step, "nfe": nfe, "cer": round(cer, 4)}
            )
            print(json.dumps(lines[-1]), flush=True)
    if variant.seed == 0 and write_pieces(model.state_dict(), out, f"variant-{variant.name}", units=bench.units) > 1:
        raise ConfigError("the variants' model is too large for one piece each: make ablation.model smaller")
    return lines


def _judge(bench: Bench, model: BlockCausalFlow, solver: Solver, utterances: Sequence[Utterance]) -> float:
    made = {
        u.id: spoken_again(
            bench.recordings,
            bench.tokenizer,
            model,
            bench.codes,
            u,
            prompt_frames=bench.prompt_frames,
            solver=solver,
        )
        for u in utterances
    }
    return character_error_rate(bench.reader, made, bench.recordings.corpus)
