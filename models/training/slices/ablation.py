"""The ablation in slices: lines in `ablation.jsonl`, judged by the units' reader; a later slice goes on with the
variants that are not there yet. The weights of the first seed come along, so that others can judge their sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ...errors import ConfigError
from .. import semantic_units
from ..ablation import VARIANTS, Bench, Judge, finished, read, write
from ..corpus import Corpus
from .judging import character_error_rate
from .machine import Machine
from .pieces import write_pieces


def judge_of(reader: semantic_units.SemanticUnits, corpus: Corpus) -> Judge:
    """The character error rate that the units' own reader makes."""

    def judge(made: Mapping[str, Tensor]) -> dict[str, float]:
        return {"cer": character_error_rate(reader, made, corpus)}

    return judge


def run_variants(
    machine: Machine, bench: Bench, units: str, *, work: Path, out: Path, earlier: Sequence[Path]
) -> dict[str, float]:
    """Train and judge as many variants as there is time for; those that `earlier` folders hold are taken over.

    units: what the codes' first level was made by (`pieces.units_id`).
    """
    lines = finished([line for folder in earlier for path in folder.rglob("ablation.jsonl") for line in read(path)])
    for folder in earlier:
        for path in folder.rglob("variant-*.safetensors"):
            if path.parent.resolve() != out.resolve():
                (out / path.name).write_bytes(path.read_bytes())
    done = {line["variant"] for line in lines}
    write(out / "ablation.jsonl", lines)
    longest = 0.0
    for variant in VARIANTS:
        if variant.name in done or (longest and machine.left < 1.1 * longest):
            continue
        before = machine.spent
        found, model = bench.run(variant, work / variant.name)
        if variant.seed == 0 and write_pieces(model.state_dict(), out, f"variant-{variant.name}", units=units) > 1:
            raise ConfigError("the variants' model is too large for one piece each: make ablation.model smaller")
        lines += found
        done.add(variant.name)
        longest = max(longest, machine.spent - before)
        write(out / "ablation.jsonl", lines)
    return {"variants": float(len(done)), "variants_wanted": float(len(VARIANTS))}
