"""A loop of steps against plain bursts; here the host is the loop, on a GPU a node of the graph (`test_gpu_loop`)."""

import subprocess
from pathlib import Path

import pytest
import torch

from speechgpt_gen.kernels.gpu import while_node
from speechgpt_gen.kernels.graph import Lane
from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.models.semantic.grammar import DecodingLimits, Grammar
from speechgpt_gen.models.semantic.slots import NOTHING, SlotModel, SlotOptions
from speechgpt_gen.streaming.bench import loop
from speechgpt_gen.streaming.bench.common import Subject
from speechgpt_gen.streaming.bench.loop import LoopBurst, PlainBurst, bench_loop, place


@pytest.fixture(scope="module")
def model() -> SlotModel:
    bundle = load_bundle("tiny")
    grammar = Grammar(bundle.vocabulary, DecodingLimits(word_frames=loop._WORD))
    # A word of tiny's ends by chance as well; here only its length ends it.
    bundle.semantic.fuse_().lm_head.weight.data[bundle.vocabulary.eosp, 0] = -9.0
    return SlotModel(bundle.semantic, grammar, SlotOptions(4, 100, (3,), {3: 1}), Lane(torch.device("cpu")))


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_a_loop_draws_what_a_burst_draws_and_stops_when_nobody_draws(
    model: SlotModel, size: int, soon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, looped = PlainBurst(model, size, 8), LoopBurst(model, size, 8)
    steps: list[int] = []
    step = model.step
    monkeypatch.setattr(model, "step", lambda size: (steps.append(size), step(size))[1])
    drawn = []
    for burst in (plain, looped):
        place(model, size, 50, soon=soon)
        steps.clear()
        drawn.append(burst(list(range(size))).take()[0])
    assert torch.equal(drawn[0], drawn[1])
    made = 4 if soon else 8  # the word's last three units and its end
    assert len(steps) == made
    assert (drawn[1][:made] >= 0).all()
    assert (drawn[1][made:] == NOTHING).all()


def test_it_is_measured() -> None:
    figures, _ = bench_loop(Subject("tiny", "cpu", slots=2, context=200, quick=True))
    assert figures["equal"]
    assert not figures["on_device"]
    assert [(row["slots"], row["burst"]) for row in figures["rows"]] == [(1, 2), (1, 8), (1, 32)]
    for row in figures["rows"]:
        assert row["whole"]["steps"] >= row["early"]["steps"] >= 1
        assert row["whole"]["plain_ms"]["p50"] > 0


def test_without_cuda_python_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert while_node.refusal(torch.device("cpu")) == "a loop on the device needs a GPU"

    def absent() -> None:
        raise ImportError("No module named 'cuda'")

    monkeypatch.setattr(while_node, "_api", absent)
    assert "pip install cuda-bindings" in (while_node.refusal(torch.device("cuda")) or "")


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernel_that_decides_compiles(tmp_path: Path, capability: int) -> None:
    triton = pytest.importorskip("triton")
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    source = tmp_path / "set_condition.ptx"
    source.write_text(while_node.SET_CONDITION)
    done = subprocess.run(
        [
            tools / ("ptxas-blackwell" if capability >= 100 else "ptxas"),
            f"-arch=sm_{capability}",
            source,
            "-o",
            tmp_path / "cubin",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"cudaGraphSetConditional" in (tmp_path / "cubin").read_bytes()
