"""Who computes: the choice, its fallbacks and what is said about them."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from speechgpt_gen.kernels import attention_flash, selection
from speechgpt_gen.kernels.selection import attention_backend, fused, triton_refusal, use, using

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(selection.ENVIRONMENT, raising=False)
    for remembered in (selection.say_once, selection._attention_on, selection._fused_on):
        remembered.cache_clear()


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))


def test_cpu_takes_torch_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert attention_backend(CPU) == "torch"
    assert not fused(CPU)
    assert not caplog.records


def test_gpu_takes_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (9, 0))
    assert attention_backend(CUDA) == "triton"
    assert fused(CUDA)


def test_old_gpu_says_why_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gpu(monkeypatch, (7, 5))
    with caplog.at_level(logging.WARNING):
        assert [attention_backend(CUDA) for _ in range(3)] == ["torch"] * 3
    (record,) = caplog.records
    assert "need compute capability 8.0 or newer, Some GPU has 7.5" in record.message
    assert "\n" not in record.message


def test_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: None)
    assert triton_refusal("cuda") == "triton is not installed (pip install triton)"


def test_missing_flash_attention_falls_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gpu(monkeypatch, (9, 0))
    with using("flash"):
        assert attention_backend(CUDA) == "triton"
    assert "falls back to triton: no flash-attn 2, 3 or 4 is installed" in caplog.text


@pytest.mark.parametrize(("capability", "backend"), [((8, 0), "triton"), ((9, 0), "flash"), ((12, 0), "triton")])
def test_flash_attention_4_is_taken_where_it_reads_caches(
    capability: tuple[int, int], backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flash_attn_varlen_func() -> None: ...

    gpu(monkeypatch, capability)
    monkeypatch.setattr(attention_flash, "function", lambda: flash_attn_varlen_func)
    with using("flash"):
        assert attention_backend(CUDA) == backend
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == (backend == "triton")
    assert all(f"not on {capability[0]}.0" in line for line in said)


def test_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be one of auto, triton, flash, torch, not 'quick'"):
        use("quick")
    monkeypatch.setenv(selection.ENVIRONMENT, "quick")
    with pytest.raises(ValueError, match="SPEECHGPT_GEN_KERNELS"):
        selection.check()
    with pytest.raises(ValueError, match="SPEECHGPT_GEN_KERNELS"):
        attention_backend(CPU)


def test_using_puts_the_choice_back() -> None:
    with using("torch"):
        assert attention_backend(CPU) == "torch"
    assert attention_backend(CPU) == "torch"
    assert selection._chosen() == "auto"
