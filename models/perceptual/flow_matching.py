"""Conditional flow matching from the semantic representation v1 to the complete representation v1:8.

Three methods around any velocity estimator: `FlowMatching.path`, `FlowMatching.loss` and `FlowMatching.solve`. An
estimator is a callable `velocity(x (B, T, D), t (B,)) -> (B, T, D)`; whatever else it needs (prompt, v1, caches) it
closes over.

Source: SpeechGPT-Gen (arXiv 2401.13527), chain of information, and OT-CFM (arXiv 2210.02747).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from torch import Tensor

from ..errors import ConfigError

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Chain: TypeAlias = Literal["implicit", "explicit"]
Prior: TypeAlias = Literal["semantic", "gaussian"]
Method: TypeAlias = Literal["euler", "midpoint"]


def _require(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}")


@dataclass(frozen=True)
class FlowOptions:
    """What a perceptual model was trained to do; part of its weights' meaning, so never changed at inference.

    Raises ConfigError for an impossible value, and for an explicit chain with a semantic prior: that flow would start
    from noise centred on v1, which its target v1:8 - v1 no longer contains.
    """

    chain: Chain = "implicit"
    """`implicit`: the flow ends at v1:8 itself. `explicit`: it ends at v1:8 - v1 = v2:8, and v1 is added afterwards."""
    prior: Prior = "semantic"
    """`semantic`: the flow starts from noise centred on v1, so content is there from the start. `gaussian`: on zero."""
    prior_sigma: float = 1.0
    """Standard deviation of the prior's noise, in latent units (the published code fixes 1)."""
    sigma_min: float = 0.0
    """Share of the noise left at t = 1 (OT-CFM's sigma; not the prior's)."""

    def __post_init__(self) -> None:
        _require("chain", self.chain, get_args(Chain))
        _require("prior", self.prior, get_args(Prior))
        if self.chain == "explicit" and self.prior == "semantic":
            raise ConfigError(
                "an explicit chain starts from Gaussian noise: set prior to 'gaussian', or chain to 'implicit'"
            )
        if not self.prior_sigma > 0:
            raise ConfigError(f"prior_sigma must be positive, not {self.prior_sigma}")
        if not 0 <= self.sigma_min < 1:
            raise ConfigError(f"sigma_min must be at least 0 and below 1, not {self.sigma_min}")


@dataclass(frozen=True)
class Solver:
    """How the ODE is integrated from t = 0 to 1: in equal steps of `nfe` evaluations in all, neither more nor fewer."""

    method: Method = "euler"
    nfe: int = 8

    def __post_init__(self) -> None:
        _require("solver method", self.method, get_args(Method))
        if self.nfe < 1 or self.nfe % self.evaluations_per_step:
            raise ConfigError(
                f"nfe must be a positive multiple of {self.evaluations_per_step}, "
                f"the evaluations of one {self.method} step, not {self.nfe}"
            )

    @property
    def evaluations_per_step(self) -> int:
        return 2 if self.method == "midpoint" else 1

    @property
    def steps(self) -> int:
        return self.nfe // self.evaluations_per_step

    @property
    def times(self) -> tuple[float, ...]:
        """Times of the `nfe` evaluations in order: the k-th of every solve is at times[k] (so k can key a cache)."""
        return tuple(k / self.nfe for k in range(self.nfe))  # a midpoint step evaluates at its start and its middle


SOLVERS: Final[dict[str, Solver]] = {
    # The published code runs 16 midpoint steps whatever `steps` its caller asks for.
    "published_32": Solver("midpoint", 32),
}


def solver_named(name: str, nfe: int | None = None) -> Solver:
    """The solver called `name`: `published_32`, or a method (`euler`, `midpoint`) with `nfe` evaluations.

    Raises ConfigError when the name is unknown, or when nfe contradicts a named solver or is missing for a method.
    """
    if name in SOLVERS:
        if nfe not in (None, SOLVERS[name].nfe):
            raise ConfigError(
                f"solver {name} always makes {SOLVERS[name].nfe} evaluations: leave nfe out, or name a method"
            )
        return SOLVERS[name]
    _require("solver", name, (*get_args(Method), *SOLVERS))
    if nfe is None:
        raise ConfigError(f"solver {name} needs nfe, the number of evaluations")
    return Solver("midpoint" if name == "midpoint" else "euler", nfe)


@dataclass(frozen=True)
class FlowMatching:
    """The flow of one set of options; holds no weights and no state."""

    options: FlowOptions = FlowOptions()

    def start(self, v1: Tensor, noise: Tensor) -> Tensor:
        """x_0 of the flow for standard normal `noise`, both (B, T, D)."""
        scaled = self.options.prior_sigma * noise
        return v1 + scaled if self.options.prior == "semantic" else scaled

    def path(self, x1: Tensor, v1: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Point on the probability path at time t, and the velocity there that an estimator should learn.

        x1 (B, T, D) is the complete representation v1:8, v1 (B, T, D) the semantic one, noise (B, T, D) standard
        normal, t (B,) in [0, 1]. Returns (x_t, velocity), both (B, T, D).
        """
        end = x1 - v1 if self.options.chain == "explicit" else x1
        shrink = 1 - self.options.sigma_min
        t = t.view(-1, 1, 1)
        start = self.start(v1, noise)
        return (1 - shrink * t) * start + t * end, end - shrink * start

    def loss(
        self, velocity: Velocity, x1: Tensor, v1: Tensor, noise: Tensor, t: Tensor, *, mask: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the estimated velocity over the frames where mask (B, T) is True (None: all), a scalar.

        Shapes as in `path`. Leave prompt and padding frames out of the mask; with no frame in it the loss is 0.
        """
        x, target = self.path(x1, v1, noise, t)
        error = (velocity(x, t) - target).square().mean(-1)
        if mask is None:
            return error.mean()
        return error.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)

    def solve(self, velocity: Velocity, v1: Tensor, noise: Tensor, solver: Solver) -> Tensor:
        """Integrate from the prior to the complete representation v1:8 (B, T, D); v1 and normal noise are (B, T, D).

        Calls the estimator exactly `solver.nfe` times, at `solver.times`. An explicit chain's v1 is already added.
        """
        x = self.start(v1, noise)
        dt = 1 / solver.steps
        for step in range(solver.steps):
            dx = velocity(x, x.new_full(x.shape[:1], step * dt))
            if solver.method == "midpoint":
                dx = velocity(x + dx * (dt / 2), x.new_full(x.shape[:1], (step + 0.5) * dt))
            x = x + dx * dt
        return x + v1 if self.options.chain == "explicit" else x
