"""GaLore: AdamW and Adafactor on gradients projected to a low rank (Zhao et al. 2024, arXiv:2403.03507)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from trainer.optimizers import low_rank_options
from trainer.optimizers.adafactor import Adafactor, adafactor_arguments
from trainer.optimizers.builder import ByClass
from trainer.optimizers.low_rank_adam import adam_direction, adam_step_size, decay
from trainer.optimizers.per_parameter import PerParameterOptimizer
from trainer.optimizers.projection import current_projection, is_projected
from trainer.optimizers.torch import adam_arguments


class GaLoreAdamW(PerParameterOptimizer):
    """AdamW whose moments are those of the projected gradient, in groups of role "targeted".

    There the update is projected back and multiplied by ``scale``. In all groups ``eps`` is added before
    moments are corrected for their start, and weights decay after the update, as in the authors' package.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        rank: int = 128,
        update_proj_gap: int = 200,
        scale: float = 0.25,
        proj_type: str = "std",
        in_backward: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "update_proj_gap": update_proj_gap,
            "scale": scale,
            "proj_type": proj_type,
        }
        super().__init__(params, defaults, in_backward=in_backward)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        if is_projected(group):
            projection = current_projection(grad, state, group)
            low = adam_direction(projection.down(grad), state, group)
            direction = projection.up(low) * group["scale"]
        else:
            direction = adam_direction(grad, state, group)
        parameter.sub_(direction, alpha=adam_step_size(state, group))
        decay(parameter, group)


class GaLoreAdafactor(Adafactor):
    """Adafactor whose moments are those of the projected gradient, in groups of role "targeted"."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        rank: int = 128,
        update_proj_gap: int = 200,
        scale: float = 0.25,
        proj_type: str = "std",
        **adafactor: Any,
    ) -> None:
        self._low_rank = {
            "rank": rank,
            "update_proj_gap": update_proj_gap,
            "scale": scale,
            "proj_type": proj_type,
        }
        super().__init__(params, **adafactor)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group({**self._low_rank, **param_group})

    def change(
        self, grad: Tensor, state: dict[str, Any], group: dict[str, Any], rate: float | Tensor
    ) -> Tensor:
        if not is_projected(group):
            return super().change(grad, state, group, rate)
        projection = current_projection(grad, state, group)
        return projection.up(super().change(projection.down(grad), state, group, rate)) * group["scale"]


@ByClass
def adamw(options: low_rank_options.GaLoreAdamW) -> tuple[type[GaLoreAdamW], dict[str, Any]]:
    return GaLoreAdamW, {**adam_arguments(options), **low_rank_arguments(options)}


@ByClass
def adafactor(options: low_rank_options.GaLoreAdafactor) -> tuple[type[GaLoreAdafactor], dict[str, Any]]:
    return GaLoreAdafactor, {**adafactor_arguments(options), **low_rank_arguments(options)}


def low_rank_arguments(options: low_rank_options.LowRank) -> dict[str, Any]:
    """The arguments that the low-rank optimizers have in common."""
    return {
        "rank": options.rank,
        "update_proj_gap": options.update_proj_gap,
        "scale": options.scale,
        "proj_type": options.proj_type,
        "in_backward": options.updates_in_backward,
    }
