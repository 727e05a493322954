"""Checkpoints: what loads, what is refused, and in which words."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from speechgpt_gen.models.checkpoint import load_state, load_strict
from speechgpt_gen.models.errors import CheckpointError, ModelNotFoundError


def _state() -> dict[str, torch.Tensor]:
    return {"weight": torch.randn(3, 2), "bias": torch.randn(3)}


def test_safetensors_and_torch_files_give_the_same_tensors(tmp_path: Path) -> None:
    state = _state()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save({"generator": state, "optim_g": {"lr": 1.0}}, tmp_path / "trainer.pt")
    for got in (
        load_state(tmp_path / "a.safetensors"),
        load_state(tmp_path / "a.pt"),
        load_state(tmp_path / "a.pt", wrapper="generator"),
        load_state(tmp_path / "trainer.pt", wrapper="generator"),
    ):
        assert got.keys() == state.keys()
        assert all(torch.equal(got[key], state[key]) for key in state)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch should-not-exist",)


def test_a_file_with_code_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1), "code": _Code()}, "zip.pt")
    Path("raw.pt").write_bytes(pickle.dumps({"weight": _Code()}, protocol=2))
    for name in ("zip.pt", "raw.pt"):
        with pytest.raises(CheckpointError, match="would run code") as caught:
            load_state(name)
        assert "\n" not in str(caught.value)
    assert not Path("should-not-exist").exists()


@pytest.mark.parametrize(
    "name", ["cut.pt", "cut.safetensors", "text.pt", "text.safetensors", "empty.pt", "empty.safetensors"]
)
def test_broken_files_are_named_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("cut"):
        if path.suffix == ".pt":
            torch.save(_state(), path)
        else:
            save_file(_state(), path)
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_text("not weights" if name.startswith("text") else "")
    with pytest.raises(CheckpointError, match=name) as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt holds no dictionary of tensors but list"):
        load_state(tmp_path / "list.pt")
    torch.save({"discriminators": {"a": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="discriminators not a tensor"):
        load_state(tmp_path / "other.pt", wrapper="generator")
    with pytest.raises(ModelNotFoundError, match="no checkpoint at"):
        load_state(tmp_path / "none.pt")
    with pytest.raises(ModelNotFoundError):
        load_state(tmp_path)


def test_strict_loading_names_every_kind_of_misfit_and_changes_nothing() -> None:
    module = nn.Linear(2, 3)
    before = module.weight.clone()
    wrong = {"weight": torch.zeros(3, 5), "gamma": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_strict(module, wrong, "some.pt")
    message = str(caught.value)
    assert message.startswith("some.pt does not fit Linear: 1 missing (bias); 1 extra (gamma); ")
    assert "1 mis-shaped (weight is (3, 5) and should be (3, 2))" in message
    assert "\n" not in message
    assert torch.equal(module.weight, before)
    many = {f"extra{index}": torch.zeros(1) for index in range(9)} | _state()
    with pytest.raises(CheckpointError, match=r"9 extra \(extra0, extra1, extra2, \.\.\.\)"):
        load_strict(module, many, "some.pt")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_strict_loading_keeps_the_modules_dtype_on_any_device(device: str) -> None:
    with torch.device(device):
        module = nn.Linear(2, 3)
    state = {key: value.half() for key, value in _state().items()}
    load_strict(module, state, "half.pt")
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, state["weight"].float())
    assert module.weight.requires_grad
