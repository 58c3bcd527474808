"""Typed options of GaLore and APOLLO, whose states are of low rank; defaults are the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from conf.plugins import Package
from trainer.optimizers.adafactor_options import Adafactor
from trainer.optimizers.options import AdamW, OptimizerOptions, refuse_negative

ProjType = Literal["std", "reverse_std", "right", "left", "full"]


@dataclass(frozen=True, kw_only=True)
class LowRank(OptimizerOptions):
    """States kept for a projection of the gradients of linear layers, those of ``optim_target_modules``.

    A projection is made anew every ``update_proj_gap`` updates. ``proj_type`` says which dimension of a
    matrix ``rank`` takes the place of: ``std`` the shorter, ``reverse_std`` the longer, ``left`` that of the
    rows, ``right`` that of the columns, ``full`` both. All other weights are trained as usual.
    """

    optim_target_modules: tuple[str, ...] | str | None = None
    rank: int = 128
    update_proj_gap: int = 200
    scale: float = 0.25
    proj_type: ProjType = "std"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.optim_target_modules:
            raise ValueError(
                "optim_target_modules: it is needed; name the linear layers to project by names or a regular "
                "expression, or take all with 'all-linear'."
            )
        for name in ("rank", "update_proj_gap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: 1 or more is wanted, {getattr(self, name)} was given.")
        if self.scale <= 0:
            raise ValueError(f"scale: more than 0 is wanted, {self.scale} was given.")


@dataclass(frozen=True, kw_only=True)
class Layerwise(OptimizerOptions):
    """Each parameter is updated in the backward pass, so that gradients never lie in memory together."""

    @property
    def updates_in_backward(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class GaLoreAdamW(LowRank, AdamW):
    """AdamW on gradients projected by their singular vectors (Zhao et al. 2024, arXiv:2403.03507).

    The update is projected back and multiplied by ``scale``. ``adam_epsilon`` is as for AdamW; the authors'
    package has 1e-6.
    """

    @property
    def state_tensors(self) -> float:
        """AdamW's, an upper bound up to a rank of two thirds of the shorter side of a matrix.

        One of m x n, m >= n, keeps rank x (2 m + n) numbers where AdamW has 2 m n.
        """
        return 2


@dataclass(frozen=True, kw_only=True)
class GaLoreAdamWLayerwise(Layerwise, GaLoreAdamW):
    """GaLoreAdamW in the backward pass."""


@dataclass(frozen=True, kw_only=True)
class GaLoreAdamW8bit(GaLoreAdamW):
    """GaLoreAdamW with moments of 8 bits in blocks of 256 numbers (Dettmers et al. 2021, arXiv:2110.02861).

    Moments of fewer than ``min_8bit_size`` numbers are kept in fp32.
    """

    package: ClassVar[Package] = Package("bitsandbytes", extra="bitsandbytes")

    min_8bit_size: int = 4096

    @property
    def state_tensors(self) -> float:
        """Two moments of 8 bits beside weights of 32: an upper bound up to a third of the shorter side."""
        return 0.52

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "min_8bit_size")


@dataclass(frozen=True, kw_only=True)
class GaLoreAdamW8bitLayerwise(Layerwise, GaLoreAdamW8bit):
    """GaLoreAdamW8bit in the backward pass."""


@dataclass(frozen=True, kw_only=True)
class GaLoreAdafactor(LowRank, Adafactor):
    """Adafactor on gradients projected by their singular vectors (Zhao et al. 2024, arXiv:2403.03507)."""

    @property
    def state_tensors(self) -> float:
        """An upper bound: the projection of a matrix of m x n, m >= n, has rank x n numbers of m n."""
        return super().state_tensors + 1


@dataclass(frozen=True, kw_only=True)
class GaLoreAdafactorLayerwise(Layerwise, GaLoreAdafactor):
    """GaLoreAdafactor in the backward pass."""


@dataclass(frozen=True, kw_only=True)
class ApolloAdamW(LowRank, AdamW):
    """Gradients scaled as AdamW scales their projection (Zhu et al. 2024, arXiv:2412.05270).

    ``proj`` is a ``random`` matrix or the ``svd`` of the gradient. ``scale_type`` is a factor for each
    ``channel``, a row or column of what is not projected, or one for the whole ``tensor`` (APOLLO-Mini: that,
    rank 1 and a ``scale`` of 128). The update is multiplied by the root of ``scale``, and its norm may grow
    by 1 % a step, as in Fira (Chen et al. 2024, arXiv:2410.01623).
    """

    scale: float = 1.0
    proj_type: Literal["std", "reverse_std", "right", "left"] = "std"
    proj: Literal["random", "svd"] = "random"
    scale_type: Literal["channel", "tensor"] = "channel"

    @property
    def state_tensors(self) -> float:
        """AdamW's, an upper bound up to a rank of two thirds of the shorter side of a matrix.

        One of m x n, m >= n, keeps rank x (2 m + n) numbers where AdamW has 2 m n.
        """
        return 2


@dataclass(frozen=True, kw_only=True)
class ApolloAdamWLayerwise(Layerwise, ApolloAdamW):
    """ApolloAdamW in the backward pass."""
