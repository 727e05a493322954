"""Configuration of the published perceptual model: what its YAML says, and what only its weights tell."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor

from ..config import from_json
from ..errors import ConfigError
from .backbone import BackboneOptions
from .flow_matching import SOLVERS, FlowOptions, Solver, solver_named

Backbone: TypeAlias = Literal["uconformer", "conformer", "uformer", "transformer"]


@dataclass(frozen=True)
class ConditionalFlowConfig:
    """What a published perceptual model is: its network, what the network sees, and the flow it was trained for."""

    options: BackboneOptions = field(default_factory=BackboneOptions)
    backbone: Backbone = "uconformer"
    concat_cond: bool = True
    """Whether v1 is an input of the network; without it v1 reaches the flow only through a semantic prior."""
    flow: FlowOptions = field(default_factory=FlowOptions)
    solver: Solver = SOLVERS["published_32"]
    """Used when `generate` is not given another."""

    def __post_init__(self) -> None:
        if not self.concat_cond and self.flow.prior == "gaussian":
            raise ConfigError("with a Gaussian prior the network must see v1: set concat_cond, or a semantic prior")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], state: Mapping[str, Tensor] | None = None) -> "ConditionalFlowConfig":
        """Read a published configuration, with the keys' older names too; what it leaves out is told from the weights.

        values: `model_config.yml` (model arguments) or `config.yml` (these under `model_args`); other keys are ignored.
        state: the checkpoint's tensors. The number of heads leaves no trace there, so the configuration must name it.
        Raises ConfigError for what is missing, wrong, or contradicts itself.
        """
        if isinstance(values.get("model_args"), Mapping):
            values = values["model_args"]
        sizes = _either(values, "backbone_kwargs", "conformer_kwargs", {})
        if not isinstance(sizes, Mapping):
            raise ConfigError(f"backbone_kwargs must hold the network's sizes, not {sizes!r}")
        told = _told_by_weights(state) if state else {}
        if sizes.get("heads") is None:
            raise ConfigError("backbone_kwargs must name heads, the attention heads: the weights do not tell")
        for key in ("t5_rel_pos_bias", "conv_causal", "cross_attention"):
            if sizes.get(key):
                raise ConfigError(f"backbone_kwargs: {key} is not supported; published models do without it")
        sizes = {key: value for key, value in sizes.items() if value is not None}
        adaptive = _flag(sizes, "adaptive_rmsnorm", "cond_dim" in told)
        cond_dim = sizes.get("adaptive_rmsnorm_cond_dim_in", told.get("cond_dim")) if adaptive else None
        if adaptive and cond_dim is None:
            raise ConfigError("backbone_kwargs: adaptive_rmsnorm needs adaptive_rmsnorm_cond_dim_in, its width")
        known = {item.name: sizes[item.name] for item in fields(BackboneOptions) if item.name in sizes}
        sized = {key: told[key] for key in ("dim", "depth") if key in told} | known | {"cond_dim": cond_dim}
        options = from_json(BackboneOptions, sized, "backbone_kwargs")
        if values.get("dim_in", options.dim) != options.dim:
            raise ConfigError(
                f"dim_in must equal dim ({options.dim}), not {values['dim_in']!r}: no published code ran otherwise"
            )
        backbone = _either(values, "backbone_type", "model_type", told.get("backbone", "uconformer"))
        if backbone not in get_args(Backbone):
            raise ConfigError(f"backbone_type must be one of {', '.join(get_args(Backbone))}, not {backbone!r}")
        # Without start_from_cond the published code starts from plain noise and shows v1 to the network.
        semantic = _flag(values, "start_from_cond", told.get("concat_cond") is False)
        concat = _flag(values, "concat_cond", told.get("concat_cond", False)) or not semantic
        explicit = _explicit(values)
        if explicit and semantic:
            raise ConfigError(
                "explicit: true with start_from_cond: true starts around what the flow then leaves out; set one"
            )
        return cls(
            options=options,
            backbone=backbone,
            concat_cond=concat,
            flow=FlowOptions(
                chain="explicit" if explicit else "implicit",
                prior="semantic" if semantic else "gaussian",
                sigma_min=_number(values, "sigma", 0.0),
            ),
            solver=_solver(values),
        )


def _told_by_weights(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What keys and shapes of a checkpoint say of its configuration; nothing if they belong to another model."""
    if "to_pred.weight" not in state or "to_embed.weight" not in state:
        return {}
    dim = state["to_pred.weight"].shape[0]
    blocks = {tuple(key.split(".")[1:3]) for key in state if key.startswith("net.") and "_layers." in key[4:]}
    plain = {key.split(".")[2] for key in state if key.startswith("net.layers.")}
    kind = "conformer" if any(".ff1." in key for key in state) else "former" if blocks else "transformer"
    told: dict[str, Any] = {
        "dim": dim,
        "depth": len(blocks) + len(plain),
        "backbone": f"u{kind}" if blocks else kind,
        "concat_cond": state["to_embed.weight"].shape[-1] == 3 * dim + 1,
    }
    if "sinu_pos_emb.1.weight" in state:
        told["cond_dim"] = state["sinu_pos_emb.1.weight"].shape[0]
    return told


def _either(values: Mapping[str, Any], new: str, old: str, default: Any) -> Any:
    return values.get(new, values.get(old, default))


def _flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {value!r}")
    return value


def _explicit(values: Mapping[str, Any]) -> bool:
    if "explicit" not in values and _flag(values, "explict", False):
        raise ConfigError(
            "explict: true was never read by the published training code, so the chain is in doubt: "
            "write explicit: true or explicit: false"
        )
    return _flag(values, "explicit", False)


def _number(values: Mapping[str, Any], key: str, default: float) -> float:
    try:
        return float(values.get(key, default))  # YAML reads 1e-4 as text
    except (TypeError, ValueError):
        raise ConfigError(f"{key} must be a number, not {values[key]!r}") from None


def _solver(values: Mapping[str, Any]) -> Solver:
    """The fixed-step solver of the configuration, by its true number of evaluations."""
    method = values.get("torchdiffeq_ode_method", "midpoint")
    step = _number(values, "ode_step_size", 0.0625)
    if not 0 < step <= 1:
        raise ConfigError(f"ode_step_size must be above 0 and at most 1, not {step}")
    steps = math.ceil(round(1 / step, 6))
    return solver_named(method, steps * (2 if method == "midpoint" else 1))
