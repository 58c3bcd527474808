"""Gradients of a matrix projected to a low rank and back, by singular vectors or at random.

A projection has a left matrix (rows x rank), a right one (rank x columns), or both; a side that has none is
left as it is. Both are plain tensors in the optimizer's state, and so in checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The authors' package takes this draw of a generator for the seed of the next one.
DRAWS_TO_NEXT_SEED = 15


@dataclass(frozen=True)
class Projection:
    """``left`` (rows x rank) and ``right`` (rank x columns); at least one of them is there."""

    left: Tensor | None = None
    right: Tensor | None = None

    def down(self, gradient: Tensor) -> Tensor:
        """A gradient (rows x columns) with the rank in place of each side that is projected."""
        if self.left is not None:
            gradient = self.left.T @ gradient
        return gradient if self.right is None else gradient @ self.right.T

    def up(self, low: Tensor) -> Tensor:
        """The inverse of ``down`` for a gradient that lies in the projection's space."""
        if self.left is not None:
            low = self.left @ low
        return low if self.right is None else low @ self.right

    @property
    def channel_dim(self) -> int:
        """The dimension that holds the rank, which one channel's numbers lie along."""
        return 0 if self.right is None else 1


Make = Callable[[Tensor, int, str], Projection]


def is_projected(group: dict[str, Any]) -> bool:
    """Whether the gradients of a group's matrices are projected."""
    return group.get("role") == "targeted"


def current_projection(
    gradient: Tensor, state: dict[str, Any], group: dict[str, Any], make: Make | None = None
) -> Projection:
    """The projection of update ``state["step"]``, counted from 1, made of its gradient when it is due.

    ``make`` gets the gradient, the rank and which side is projected; by default ``by_singular_vectors``.
    """
    if (state["step"] - 1) % group["update_proj_gap"] == 0:
        side = projected_side(gradient.shape, group["proj_type"])
        made = (make or by_singular_vectors)(gradient, group["rank"], side)
        for name, matrix in (("projection_left", made.left), ("projection_right", made.right)):
            if matrix is not None:
                state[name] = matrix
    return Projection(state.get("projection_left"), state.get("projection_right"))


def projected_side(shape: torch.Size, proj_type: str) -> str:
    """``left``, ``right`` or ``full``: what a ``proj_type`` means for a matrix of this shape."""
    rows, columns = shape
    if proj_type == "std":
        return "right" if rows >= columns else "left"
    if proj_type == "reverse_std":
        return "left" if rows >= columns else "right"
    return proj_type


def by_singular_vectors(gradient: Tensor, rank: int, side: str) -> Projection:
    """The first singular vectors of the gradient, ``rank`` of them or as many as there are.

    Computed in fp32. Source: GaLore, Zhao et al. 2024 (arXiv:2403.03507).
    """
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    return Projection(
        None if side == "right" else _own(left[:, :rank], gradient.dtype),
        None if side == "left" else _own(right[:rank], gradient.dtype),
    )


def at_random(gradient: Tensor, rank: int, side: str, *, seed: int) -> Projection:
    """Normal numbers of variance 1 / rank, which follow from the seed alone; ``side`` is left or right.

    Source: APOLLO, Zhu et al. 2024 (arXiv:2412.05270).
    """
    rows, columns = gradient.shape
    shape = (rows, rank) if side == "left" else (rank, columns)
    # In fp32 whatever the gradient is in: numbers drawn in 16 bits are others.
    generator = torch.Generator(device=gradient.device).manual_seed(seed)
    matrix = torch.randn(shape, generator=generator, device=gradient.device, dtype=torch.float32)
    matrix = (matrix / math.sqrt(rank)).to(gradient.dtype)
    return Projection(left=matrix) if side == "left" else Projection(right=matrix)


def next_seed(seed: int) -> int:
    """The seed of the projection after the one made of ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, torch.iinfo(torch.int64).max, (DRAWS_TO_NEXT_SEED,), generator=generator)
    return int(draws[-1])


def _own(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in memory of its own: a view would keep all vectors, and a transposed one would round otherwise
    than what a checkpoint gives back."""
    return vectors.to(dtype).clone(memory_format=torch.contiguous_format)
