"""The published perceptual model: exact keys, loading, and what a prompt does."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from speechgpt_gen.kernels.noise import normal
from speechgpt_gen.models.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechgpt_gen.models.perceptual.flow_matching import SOLVERS, Solver
from speechgpt_gen.models.perceptual.published import (
    ConditionalFlowMatcher,
    draw_prompt_frames,
    load_conditional_flow_matcher,
)
from speechgpt_gen.models.perceptual.published_config import ConditionalFlowConfig

Shapes = dict[str, tuple[int, ...]]
DIM = 16
TINY: dict[str, Any] = {
    "dim": DIM,
    "depth": 3,
    "heads": 2,
    "conv_kernel_size": 5,
    "ff_dropout": 0.1,
    "attn_flash": False,
}
SHIPPED: dict[str, Any] = {
    "start_from_cond": True,
    "concat_cond": False,
    "explict": False,
    "sigma": 0.0,
    "use_torchode": False,
}


def _config(sizes: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {**SHIPPED, "backbone_kwargs": TINY | (sizes or {}), **changes}


def _tiny(sizes: dict[str, Any] | None = None, **changes: Any) -> ConditionalFlowMatcher:
    torch.manual_seed(2)
    return ConditionalFlowMatcher(ConditionalFlowConfig.from_dict(_config(sizes, **changes))).eval()


ADAPTIVE = {"adaptive_rmsnorm": True, "adaptive_rmsnorm_cond_dim_in": 4096}


@pytest.mark.parametrize(
    ("name", "sizes", "concat", "tensors"),
    [
        ("uconformer", {}, False, 361),
        ("uconformer", {}, True, 361),
        ("adaptive_uconformer", ADAPTIVE, False, 436),
        ("conformer", {}, False, 351),
        ("transformer", {}, False, 123),
        ("uformer", {}, False, 138),
    ],
)
def test_keys_and_shapes_are_the_published_ones(
    name: str, sizes: dict[str, Any], concat: bool, tensors: int, published_keys: Callable[[str], Shapes]
) -> None:
    expected = published_keys(f"flow_{name}")
    assert len(expected) == tensors
    if concat:
        expected["to_embed.weight"] = (1024, 3073)
    kwargs = {"dim": 1024, "depth": 12, "heads": 16, **sizes}
    config = ConditionalFlowConfig.from_dict(
        {**SHIPPED, "backbone_type": name.removeprefix("adaptive_"), "concat_cond": concat, "backbone_kwargs": kwargs}
    )
    with torch.device("meta"):
        model = ConditionalFlowMatcher(config)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected
    # Everything but the number of heads can be told from the weights.
    told = ConditionalFlowConfig.from_dict(
        {"start_from_cond": True, "backbone_kwargs": {"heads": 16}}, dict(model.state_dict())
    )
    assert told == config


BACKBONES = ["uconformer", "conformer", "uformer", "transformer"]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("cond_dim", [None, 8])
def test_padding_says_nothing_to_real_frames(backbone: str, cond_dim: int | None) -> None:
    sizes = {"adaptive_rmsnorm": cond_dim is not None, "adaptive_rmsnorm_cond_dim_in": cond_dim}
    model = _tiny(sizes, backbone_type=backbone, concat_cond=True)
    inputs = torch.randn(3, 1, 5, DIM)
    t = torch.tensor([0.3])
    mask = torch.arange(7)[None] < 5
    with torch.no_grad():
        alone = model.velocity(inputs[0], t, inputs[1], inputs[2])
        for loudness in (0.0, 9.0):
            x, v1, context = F.pad(inputs, (0, 0, 0, 2), value=loudness)
            padded = model.velocity(x, t, v1, context, mask)[:, :5]
            torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_v1_reaches_the_network_only_where_it_is_concatenated() -> None:
    x, v1, other = torch.randn(3, 1, 4, DIM)
    t, nothing = torch.tensor([0.5]), torch.zeros(1, 4, DIM)
    with torch.no_grad():
        without, with_v1 = _tiny(), _tiny(concat_cond=True)
        assert torch.equal(without.velocity(x, t, v1, nothing), without.velocity(x, t, other, nothing))
        assert not torch.equal(with_v1.velocity(x, t, v1, nothing), with_v1.velocity(x, t, other, nothing))


def test_generation_solves_the_flow_of_prompt_and_utterance_together() -> None:
    model = _tiny(concat_cond=True)
    v1, prompt, prompt_v1, noise = (torch.randn(2, frames, DIM) for frames in (6, 4, 4, 10))
    got = model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, noise=noise, solver=Solver("euler", 3))
    both = torch.cat([prompt_v1, v1], dim=1)
    context = torch.cat([prompt, torch.zeros_like(v1)], dim=1)
    x = both + noise
    with torch.no_grad():
        for step in range(3):
            x = x + model.velocity(x, torch.full((2,), step / 3), both, context) / 3
    torch.testing.assert_close(got, x[:, 4:], atol=1e-5, rtol=1e-5)
    # The prompt's frames are evolved from their own noise, not held fixed.
    shaken = torch.cat([noise[:, :4] + 1, noise[:, 4:]], dim=1)
    assert not torch.allclose(
        got, model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, noise=shaken, solver=Solver("euler", 3))
    )


def test_generation_without_another_solver_makes_the_published_32_evaluations() -> None:
    model = _tiny()
    calls = []
    model.to_pred.register_forward_hook(lambda *_: calls.append(1))
    model.generate(torch.randn(1, 3, DIM), seed=1)
    assert len(calls) == 32
    assert model.config.solver == SOLVERS["published_32"]
    model.generate(torch.randn(1, 3, DIM), seed=1, solver=Solver("euler", 5))
    assert len(calls) == 37


def test_seeded_noise_belongs_to_the_utterances_frames() -> None:
    model = _tiny()
    v1, prompt, prompt_v1 = (torch.randn(2, frames, DIM) for frames in (6, 4, 4))
    noise = torch.stack([normal(seed, range(-4, 6), DIM) for seed in (7, 8)])
    solver = Solver("euler", 2)
    seeded = model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, seed=7, solver=solver)
    assert torch.equal(seeded, model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, noise=noise, solver=solver))
    assert torch.equal(model.generate(v1, seed=7, solver=solver), model.generate(v1, noise=noise[:, 4:], solver=solver))


def test_only_the_start_of_a_long_prompt_is_used() -> None:
    model = _tiny({"depth": 1})
    v1, prompt, prompt_v1 = (torch.randn(1, frames, DIM) for frames in (3, 160, 160))
    solver = Solver("euler", 1)
    whole = model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, seed=0, solver=solver)
    cut = model.generate(v1, prompt=prompt[:, :150], prompt_v1=prompt_v1[:, :150], seed=0, solver=solver)
    assert torch.equal(whole, cut)
    short = model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, seed=0, solver=solver, prompt_frames=20)
    assert not torch.allclose(whole, short)


def test_padding_of_a_batch_changes_no_utterance() -> None:
    model = _tiny()
    v1, prompt, prompt_v1 = (torch.randn(1, frames, DIM) for frames in (5, 4, 4))
    solver = Solver("midpoint", 4)
    alone = model.generate(v1, prompt=prompt, prompt_v1=prompt_v1, seed=3, solver=solver)
    padded = model.generate(
        F.pad(v1, (0, 0, 0, 3), value=5.0),
        prompt=prompt,
        prompt_v1=prompt_v1,
        seed=3,
        solver=solver,
        mask=torch.arange(8)[None] < 5,
    )
    torch.testing.assert_close(padded[:, :5], alone, atol=1e-5, rtol=1e-5)


def test_an_explicit_chain_adds_v1_and_starts_from_plain_noise() -> None:
    model = _tiny(explicit=True, start_from_cond=False)
    nn.init.zeros_(model.to_pred.weight)  # no velocity: what comes out is the start, and v1
    v1, noise = torch.randn(2, 1, 4, DIM)
    torch.testing.assert_close(model.generate(v1, noise=noise, solver=Solver("euler", 1)), noise + v1)
    assert model.config.concat_cond


def test_loss_counts_what_is_neither_given_nor_padding() -> None:
    model = _tiny(concat_cond=True)
    x1, v1, noise = torch.randn(3, 2, 8, DIM)
    t = torch.rand(2)
    mask = torch.arange(8)[None] < torch.tensor([8, 5])[:, None]
    kept = mask.clone()
    loss = model.loss(x1, v1, noise, t, prompt_frames=3, mask=mask)
    assert torch.equal(mask, kept)
    start = v1 + noise
    context = x1.clone()
    context[:, 3:] = 0
    at = (1 - t)[:, None, None] * start + t[:, None, None] * x1
    error = (model.velocity(at, t, v1, context, mask) - (x1 - start)).square()
    torch.testing.assert_close(loss, torch.cat([error[0, 3:8], error[1, 3:5]]).mean())
    # What stands in the padding does not matter, not even where the prompt reaches into it.
    for prompt_frames in (3, 6):
        loud = x1.masked_fill(~mask[..., None], 50.0)
        torch.testing.assert_close(
            model.loss(loud, v1, noise, t, prompt_frames=prompt_frames, mask=mask),
            model.loss(x1, v1, noise, t, prompt_frames=prompt_frames, mask=mask),
        )
    one = model.loss(x1[:, :1], v1[:, :1], noise[:, :1], t, prompt_frames=0)
    one.backward()
    assert one.item() > 0
    assert model.to_embed.weight.grad is not None


def test_drawn_prompts_leave_something_to_learn() -> None:
    source = random.Random(0)
    assert {draw_prompt_frames(1, source) for _ in range(20)} == {0}
    assert {draw_prompt_frames(4, source) for _ in range(200)} == {0, 1, 2}
    drawn = [draw_prompt_frames(1000, source) for _ in range(20_000)]
    assert (min(drawn), max(drawn)) == (0, 298)


def _written(folder: Path, config: object, model: ConditionalFlowMatcher, name: str = "model_config.yml") -> Path:
    (folder / name).write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), folder / "ConditionalFlowMatcher_best_dev.pt")
    return folder


@pytest.mark.parametrize("backbone", ["uconformer", "conformer"])
@pytest.mark.parametrize("spelling", ["new", "old", "nested", "told by weights"])
def test_every_published_spelling_loads_to_the_same_model(tmp_path: Path, backbone: str, spelling: str) -> None:
    sizes = {"adaptive_rmsnorm": True, "adaptive_rmsnorm_cond_dim_in": 8, "ff_dropout": 0.0}
    model = _tiny(sizes, backbone_type=backbone)
    config = _config(sizes, backbone_type=backbone)
    name = "model_config.yml"
    if spelling == "old":
        config["conformer_kwargs"], config["model_type"] = config.pop("backbone_kwargs"), config.pop("backbone_type")
    elif spelling == "nested":
        config, name = {"model_args": config, "trainer_args": {"epochs": 2}}, "config.yml"
    elif spelling == "told by weights":
        config = {"backbone_kwargs": {"heads": 2, "conv_kernel_size": 5}}
    loaded = load_conditional_flow_matcher(_written(tmp_path, config, model, name))
    assert not loaded.training
    assert loaded.config == model.config
    v1 = torch.randn(1, 4, DIM)
    solver = Solver("euler", 1)
    assert torch.equal(loaded.generate(v1, seed=1, solver=solver), model.generate(v1, seed=1, solver=solver))


def test_a_trainers_checkpoint_loads(tmp_path: Path) -> None:
    model = _tiny()
    folder = _written(tmp_path, _config(), model)
    changed = {key: value + 1 for key, value in model.state_dict().items()}
    trainer = tmp_path / "ConditionalFlowMatcherTrainer_00001250"
    torch.save({"model": changed, "optim": {"state": {}}, "best_dev_loss": 1.0}, trainer)
    loaded = load_conditional_flow_matcher(folder, trainer)
    assert torch.equal(loaded.to_pred.weight, model.to_pred.weight + 1)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model_config\.yml or config\.yml"):
        load_conditional_flow_matcher(tmp_path)
    model = _tiny()
    folder = _written(tmp_path, _config(concat_cond=True), model)
    with pytest.raises(CheckpointError, match=r"to_embed\.weight is \(16, 33\) and should be \(16, 49\)"):
        load_conditional_flow_matcher(folder)
    _written(tmp_path, _config({"depth": 4}), model)
    with pytest.raises(CheckpointError, match=r"missing.*bottleneck_layers"):
        load_conditional_flow_matcher(folder)
    for text in ("a: [", "- 1", "!!python/object/apply:os.system [true]"):
        (folder / "model_config.yml").write_text(text)
        with pytest.raises(ConfigError, match=r"model_config\.yml") as caught:
            load_conditional_flow_matcher(folder)
        assert "\n" not in str(caught.value)
    (folder / "ConditionalFlowMatcher_best_dev.pt").unlink()
    with pytest.raises(ModelNotFoundError, match="best_dev"):
        load_conditional_flow_matcher(folder)


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ({"heads": None}, {}, "must name heads"),
        ({"heads": 3}, {}, "multiple of twice the heads"),
        ({"depth": "12"}, {}, "depth"),
        ({"t5_rel_pos_bias": True}, {}, "t5_rel_pos_bias is not supported"),
        ({"adaptive_rmsnorm": True}, {}, "adaptive_rmsnorm_cond_dim_in"),
        ({"conv_kernel_size": 4}, {}, "odd"),
        ({"ff_dropout": 1.0}, {}, "ff_dropout"),
        ({}, {"explict": True}, "write explicit: true or explicit: false"),
        ({}, {"explicit": True}, "start_from_cond"),
        ({}, {"explicit": "yes"}, "explicit must be true or false"),
        ({}, {"backbone_type": "unet"}, "backbone_type must be one of uconformer"),
        ({}, {"backbone_kwargs": 3}, "backbone_kwargs"),
        ({}, {"dim_in": 8}, "dim_in"),
        ({}, {"sigma": "big"}, "sigma must be a number"),
        ({}, {"ode_step_size": 0}, "ode_step_size"),
        ({}, {"torchdiffeq_ode_method": "dopri5"}, "dopri5"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(sizes: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConditionalFlowConfig.from_dict(_config(sizes, **changes))


def test_the_solver_of_a_configuration_has_its_true_number_of_evaluations() -> None:
    euler = ConditionalFlowConfig.from_dict(_config(torchdiffeq_ode_method="euler", ode_step_size="1e-1"))
    assert euler.solver == Solver("euler", 10)
    assert ConditionalFlowConfig.from_dict(_config(ode_step_size=0.0625)).solver == SOLVERS["published_32"]


def test_bad_calls_are_refused() -> None:
    model = _tiny()
    v1 = torch.randn(1, 4, DIM)
    with pytest.raises(ConfigError, match="give noise, or a seed"):
        model.generate(v1)
    with pytest.raises(ConfigError, match="prompt and prompt_v1"):
        model.generate(v1, prompt=v1, seed=0)
    with pytest.raises(ConfigError, match="must agree"):
        model.generate(v1, prompt=v1, prompt_v1=v1[:, :2], seed=0)
    with pytest.raises(ConfigError, match="must agree"):
        model.generate(v1, prompt=v1[..., :8], prompt_v1=v1[..., :8], seed=0)
    with pytest.raises(ConfigError, match="noise must be"):
        model.generate(v1, noise=v1[:, :3])
