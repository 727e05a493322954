"""The GPU benchmarks on a CPU with a tiny model: every figure is there, and nothing but torch and numpy is needed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from speechgpt_gen.models.bundle import load_bundle
from speechgpt_gen.streaming.bench import attention, common, every, plot
from speechgpt_gen.streaming.bench.attention import bench_attention
from speechgpt_gen.streaming.bench.common import Subject, copy_gb_per_s, spread, times_ms
from speechgpt_gen.streaming.bench.decode import bench_engine, weight_bytes
from speechgpt_gen.streaming.bench.flow import bench_flow
from speechgpt_gen.streaming.bench.peer import _peer
from speechgpt_gen.streaming.bench.plot import sessions_plot
from speechgpt_gen.streaming.bench.talk import bench_first_audio, bench_sessions

ROOT = Path(__file__).parents[3]
TINY = Subject("tiny", "cpu", slots=2, context=300, quick=True)
BLOCKER = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))  # None there is a module that cannot be found
from speechgpt_gen.streaming.bench.__main__ import main
sys.exit(main({arguments!r}))
"""
ABSENT = [
    *("typer", "rich", "click", "pydantic", "pydantic_settings", "soundfile", "soxr", "starlette", "uvicorn", "aiortc"),
    *("av", "websockets", "webrtcvad", "onnxruntime", "prometheus_client", "num2words", "aiomqtt", "httpx", "yaml"),
]


def test_the_engine_is_measured() -> None:
    figures, profile = bench_engine(TINY)
    assert [step["slots"] for step in figures["steps"]] == [1, 2]
    for step in figures["steps"]:
        assert step["step_ms"]["p95"] >= step["step_ms"]["p50"] > 0
        assert step["tokens_per_s"] == pytest.approx(1000 * step["slots"] / step["step_ms"]["p50"], rel=0.02)
    assert set(figures["prefill_ms"]) == {"1x16", "1x64", "1x256"}
    assert figures["copy_gb_per_s"] > 0
    assert "aten::" in profile


def test_an_fp8_cache_is_measured_with_its_error() -> None:
    figures, _ = bench_engine(replace(TINY, kv_cache="fp8"))
    assert figures["kv_cache"] == "fp8"
    assert 0 < figures["cache_rounding"]["relative_logit_error"] < 0.05
    assert figures["cache_rounding"]["same_likeliest"] > 0.9


def test_the_flow_is_measured() -> None:
    figures, _ = bench_flow(TINY)
    assert [row["batch"] for row in figures["batches"]] == [1, 2]
    assert all(row[part]["p50"] > 0 for row in figures["batches"] for part in ("flow_ms", "decoder_ms", "all_ms"))
    assert figures["frames"] == 10


def test_first_audio_is_measured_part_by_part() -> None:
    figures, _ = bench_first_audio(TINY)
    parts = figures["parts_ms"]
    assert figures["failed"] == 0
    medians = [parts[part]["p50"] for part in ("first_token", "first_unit", "first_block", "first_audio")]
    assert medians == sorted(medians)
    assert medians[0] > 0
    assert set(figures["took_ms"]) == {"queue", "prefill", "decode", "flow", "codec"}
    assert sum(took["p50"] for took in figures["took_ms"].values()) < medians[-1]


def test_sessions_are_measured() -> None:
    figures, _ = bench_sessions(TINY)
    assert [row["sessions"] for row in figures["rows"]] == [1, 2]
    assert all(row["failed"] == 0 and row["first_audio_ms"]["p50"] > 0 for row in figures["rows"])
    assert figures["rows"][0]["unevenness"] == 1.0


def test_attention_is_measured_by_every_back_end_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    figures, _ = bench_attention(TINY)
    assert set(figures["absent"]) == {"triton", "flash"}
    assert "need a GPU" in figures["absent"]["triton"]
    assert [row["part"] for row in figures["rows"]] == ["decode"] * 2 + ["prefill"] * 2 + ["flow"] * 2
    for row in figures["rows"]:
        assert row["torch"]["ms"]["p50"] > 0
        assert row["quickest"] == "torch"
    assert every.headline(figures) == "torch in 6 shapes"


def test_a_back_end_that_breaks_down_costs_its_own_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("paged KV\nnot supported")

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(attention, "attention_with_kvcache", broken)
    row = bench_attention(TINY)[0]["rows"][0]
    assert row["torch"] == {"error": "AssertionError: paged KV not supported"}
    assert row["quickest"] is None


def test_the_engines_rows_are_measured_however_long_they_take() -> None:
    judged = every.TASKS[:6]
    assert {"engine", "flow", "first-audio", "sessions"} < {task.name for task in judged}
    assert "engine-transformers" in {task.name for task in judged}
    assert sum(task.seconds for task in judged) <= every.BUDGET_S < 9 * 60


def test_sessions_are_drawn() -> None:
    rows = [
        {"sessions": 1, "first_audio_ms": {"p50": 80.0, "p95": 90.0}},
        {"sessions": 16, "first_audio_ms": {"p50": 150.0, "p95": 310.0}},
        {"sessions": 32, "first_audio_ms": None},
    ]
    drawing = ElementTree.fromstring(sessions_plot({"bfloat16": rows, "fp8 <cache>": rows[:1]}, 200.0))
    name = "{http://www.w3.org/2000/svg}"
    dots = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawing.iter(f"{name}circle")]
    assert len(dots) == 3, "a row in which nobody was heard has none"
    (limit,) = [float(line.attrib["y1"]) for line in drawing.iter(f"{name}line") if line.attrib["class"] == "limit"]
    assert dots[0][1] > limit > dots[1][1], "lower is sooner"
    assert dots[0][0] < dots[1][0]
    assert dots[2] == dots[0]
    for x, y in dots:
        assert 0 < x < plot.WIDTH
        assert 0 < y < plot.HEIGHT
    written = [text.text for text in drawing.iter(f"{name}text")]
    assert {"1", "16", "0 ms", "400 ms", "bfloat16", "fp8 <cache>"} <= set(written)
    with pytest.raises(ValueError, match="nothing to draw"):
        sessions_plot({"bfloat16": rows[2:]}, 200.0)


def test_many_sessions_leave_a_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "TASKS", (every._Task("sessions", ("sessions",), 200),))
    figures, _ = bench_sessions(replace(TINY, kv_cache="fp8"))
    monkeypatch.setattr(every, "_run", lambda *_: figures)
    assert every.measure_all(TINY, tmp_path) == 0
    assert "float32, fp8 cache" in (tmp_path / "sessions.svg").read_text()


def test_a_bare_machine_can_measure() -> None:
    arguments = ["flow", "--model", "tiny", "--device", "cpu", "--slots", "1", "--quick"]
    script = BLOCKER.format(absent=ABSENT, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=200, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["bench"] == "flow"


def test_nothing_that_talks_needs_more_either() -> None:
    script = BLOCKER.format(absent=ABSENT, arguments=["sessions", "--model", "nowhere", "--device", "cpu"])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=200, env=_environment()
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("speechgpt-gen: no model 'nowhere'")


def test_one_failure_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    tasks = (every._Task("flow", ("flow",), 200), every._Task("odd", ("engine", "--peer", "nobody"), 100))
    monkeypatch.setattr(every, "TASKS", tasks)
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    assert every.measure_all(TINY, tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["flow"]["batches"]
    assert "nobody" in summary["odd"]["error"]
    assert json.loads((tmp_path / "flow.json").read_text()) == summary["flow"]
    lines = capsys.readouterr().out.splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert lines[0].startswith("flow: {'p50'")


def test_what_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "BUDGET_S", 15.0)
    monkeypatch.setattr(every, "TASKS", (every._Task("flow", ("flow",), 0.01), every._Task("x", ("flow",), 0.01)))
    monkeypatch.setattr(every, "_run", lambda *_: {"error": "not done after 0 s"})
    assert every.measure_all(TINY, tmp_path) == 1
    assert "no time was left" in json.loads((tmp_path / "summary.json").read_text())["x"]["error"]


@pytest.mark.parametrize("fused", [True])
def test_the_peer_computes_what_we_do(fused: bool) -> None:
    transformers = pytest.importorskip("transformers")
    model = load_bundle("tiny").semantic
    tokens = torch.arange(12)[None]
    with torch.inference_mode():
        wanted = model(tokens)
        peer = _peer(transformers, model.fuse_())
        torch.testing.assert_close(peer(tokens).logits, wanted, atol=1e-4, rtol=1e-4)


def test_bytes_of_a_step_leave_the_embedding_out() -> None:
    model = load_bundle("tiny").semantic.fuse_()
    every_byte = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert weight_bytes(model) == every_byte - 4 * model.model.embed_tokens.weight.numel()


def test_times_are_times() -> None:
    device = torch.device("cpu")
    calls: list[int] = []
    assert len(times_ms(lambda: calls.append(1), device, 4, warm=2)) == 4
    assert len(calls) == 6
    assert spread([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": 2.9}
    assert copy_gb_per_s(device) > 0
    assert common.peak_memory_gb(device) is None


def test_figures_are_not_lost_for_a_profile() -> None:
    def broken() -> None:
        raise RuntimeError("CUPTI\nis busy")

    assert common.profile_table(broken, torch.device("cpu")) == "no profile: RuntimeError: CUPTI is busy\n"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
