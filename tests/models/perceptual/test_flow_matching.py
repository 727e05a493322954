"""Algebra of the flow, and the solver's true number of evaluations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechgpt_gen.models.errors import ConfigError
from speechgpt_gen.models.perceptual.flow_matching import SOLVERS, FlowMatching, FlowOptions, Solver, solver_named

CHAINS = [
    FlowOptions("implicit", "semantic"),
    FlowOptions("implicit", "gaussian", prior_sigma=0.5),
    FlowOptions("explicit", "gaussian", sigma_min=0.01),
    FlowOptions("implicit", "semantic", prior_sigma=0.3, sigma_min=0.1),
]


def _sample() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 5, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 4)  # x1, v1, noise


@pytest.mark.parametrize("options", CHAINS)
@pytest.mark.parametrize(
    "solver", [Solver("euler", 1), Solver("euler", 7), Solver("midpoint", 2), SOLVERS["published_32"]]
)
def test_the_true_velocity_leads_to_the_complete_representation(options: FlowOptions, solver: Solver) -> None:
    flow = FlowMatching(options)
    x1, v1, noise = _sample()
    _, target = flow.path(x1, v1, noise, torch.rand(2))
    got = flow.solve(lambda x, t: target, v1, noise, solver)
    # sigma_min is the share of the start that is left at t = 1 (v1 comes on top of an explicit chain's end).
    torch.testing.assert_close(got, x1 + options.sigma_min * flow.start(v1, noise), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", CHAINS)
def test_path_runs_from_the_prior_and_its_slope_is_the_target(options: FlowOptions) -> None:
    flow = FlowMatching(options)
    x1, v1, noise = (tensor.double() for tensor in _sample())
    at, target = flow.path(x1, v1, noise, torch.zeros(2).double())
    centre = v1 if options.prior == "semantic" else torch.zeros_like(v1)
    torch.testing.assert_close(at, centre + options.prior_sigma * noise)
    ahead, same = flow.path(x1, v1, noise, torch.full((2,), 0.25).double())
    torch.testing.assert_close((ahead - at) / 0.25, target)
    torch.testing.assert_close(same, target)


def test_explicit_and_implicit_chains_differ_by_v1() -> None:
    x1, v1, noise = _sample()
    t = torch.rand(2)
    implicit, to_all = FlowMatching(FlowOptions("implicit", "gaussian")).path(x1, v1, noise, t)
    explicit, to_rest = FlowMatching(FlowOptions("explicit", "gaussian")).path(x1, v1, noise, t)
    torch.testing.assert_close(to_all - to_rest, v1)
    torch.testing.assert_close(implicit - explicit, t.view(-1, 1, 1) * v1)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["euler", "midpoint"]), st.integers(1, 40))
def test_nfe_is_the_number_of_evaluations_and_times_are_where_they_happen(method: str, count: int) -> None:
    solver = solver_named(method, count * (2 if method == "midpoint" else 1))
    seen: list[float] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (2,)
        seen.append(t[0].item())
        return -x

    FlowMatching().solve(velocity, torch.zeros(2, 3, 4), torch.ones(2, 3, 4), solver)
    assert len(seen) == solver.nfe
    assert seen == pytest.approx(solver.times, abs=1e-6)


def test_solvers_follow_their_textbook_formulas() -> None:
    """dx/dt = t - x from x = 1: one Euler step gives 0; one midpoint step 1 + (1/2 - 1/2) = 1; the exact end is 2/e."""

    def solve(solver: Solver) -> float:
        shape = (1, 1, 1)
        out = FlowMatching(FlowOptions(prior="gaussian")).solve(
            lambda x, t: t.view(-1, 1, 1) - x, torch.zeros(shape), torch.ones(shape), solver
        )
        return out.item()

    assert solve(Solver("euler", 1)) == pytest.approx(0.0)
    assert solve(Solver("midpoint", 2)) == pytest.approx(1.0)
    exact = 2 / 2.718281828459045
    euler, midpoint = abs(solve(Solver("euler", 32)) - exact), abs(solve(SOLVERS["published_32"]) - exact)
    assert midpoint < 1e-3 < euler


def test_loss_counts_masked_frames_only() -> None:
    flow = FlowMatching()
    x1, v1, noise = _sample()
    t = torch.rand(2)
    mask = torch.tensor([[False, True, True, False, False], [False, True, True, True, True]])
    guess = torch.randn_like(x1)
    _, target = flow.path(x1, v1, noise, t)
    expected = (guess - target)[mask].square().mean()
    torch.testing.assert_close(flow.loss(lambda x, t: guess, x1, v1, noise, t, mask=mask), expected)
    # What stands in the frames outside the mask, even NaN, is no part of the loss.
    broken = guess.masked_fill(~mask.unsqueeze(-1), torch.nan)
    torch.testing.assert_close(flow.loss(lambda x, t: broken, x1, v1, noise, t, mask=mask), expected)
    assert flow.loss(lambda x, t: guess, x1, v1, noise, t, mask=torch.zeros_like(mask)) == 0
    torch.testing.assert_close(
        flow.loss(lambda x, t: guess, x1, v1, noise, t),
        flow.loss(lambda x, t: guess, x1, v1, noise, t, mask=torch.ones_like(mask)),
    )


def test_impossible_options_are_refused_with_a_mend() -> None:
    with pytest.raises(ConfigError, match="set prior to 'gaussian'"):
        FlowOptions("explicit", "semantic")
    with pytest.raises(ConfigError, match="chain must be one of"):
        FlowOptions("both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="prior_sigma"):
        FlowOptions(prior_sigma=0.0)
    with pytest.raises(ConfigError, match="sigma_min"):
        FlowOptions(sigma_min=1.0)
    with pytest.raises(ConfigError, match="multiple of 2"):
        Solver("midpoint", 7)
    with pytest.raises(ConfigError, match="positive"):
        Solver("euler", 0)
    with pytest.raises(ConfigError, match="solver must be one of"):
        solver_named("rk45", 4)
    with pytest.raises(ConfigError, match="needs nfe"):
        solver_named("euler")
    with pytest.raises(ConfigError, match="always makes 32"):
        solver_named("published_32", 8)
    assert solver_named("published_32") == Solver("midpoint", 32)
