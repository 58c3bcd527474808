"""Mixtures of experts: a router that chooses some experts for each token, and many gated MLPs in one tensor.

Sources: Switch Transformers (Fedus et al., 2021) for the layer; DeepSeek-V3 (2024) for scores by sigmoid, and
a bias that only takes part in the choice. Shapes: N tokens, D hidden, F the width of an expert, E experts, k
experts of a token, S = N k pairs of a token and one of its experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import ConfigError
from conf.plugins import nearest
from models.layers.mlp import ACTIVATIONS, GatedMLP

Activation = Callable[[Tensor], Tensor]


def eager_experts(x: Tensor, owners: Tensor, gate_up: Tensor, down: Tensor, activation: Activation) -> Tensor:
    """One expert after the other; the device is waited for once, to learn how many pairs each one has."""
    counts = torch.bincount(owners, minlength=len(gate_up)).tolist()
    # Unbound, so that the experts without a token get zeros in one common gradient.
    experts = zip(x.split(counts), gate_up.unbind(), down.unbind(), strict=True)
    return torch.cat([F.linear(_gated(F.linear(own, w), activation), v) for own, w, v in experts if len(own)])


def batched_mm_experts(
    x: Tensor, owners: Tensor, gate_up: Tensor, down: Tensor, activation: Activation
) -> Tensor:
    """All pairs in one batched product, which copies an expert's weights for each: for a few tokens."""
    inner = _gated(torch.bmm(gate_up[owners], x[..., None]).squeeze(-1), activation)
    return torch.bmm(down[owners], inner[..., None]).squeeze(-1)


def grouped_mm_experts(
    x: Tensor, owners: Tensor, gate_up: Tensor, down: Tensor, activation: Activation
) -> Tensor:
    """All experts in one grouped product; see ``grouped_mm_problem`` for where there is none."""
    dtype = _computed_in(gate_up)  # autocast knows nothing of this product
    ends = torch.searchsorted(
        owners, torch.arange(len(gate_up), device=owners.device), right=True, out_int32=True
    )
    inner = F.grouped_mm(x.to(dtype), gate_up.to(dtype).transpose(1, 2), offs=ends)
    return F.grouped_mm(_gated(inner, activation), down.to(dtype).transpose(1, 2), offs=ends)


def _gated(gate_and_up: Tensor, activation: Activation) -> Tensor:
    """(..., 2 F) -> (..., F)"""
    gate, up = gate_and_up.chunk(2, dim=-1)
    return activation(gate) * up


# x (S, D) and the expert that each row is for (S,), in ascending order, with gate_up (E, 2 F, D) and down
# (E, D, F) -> (S, D).
EXPERTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Activation], Tensor]] = {
    "eager": eager_experts,
    "batched_mm": batched_mm_experts,
    "grouped_mm": grouped_mm_experts,
}


def _computed_in(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def grouped_mm_problem(weight: Tensor) -> str | None:
    """Why torch has no grouped product for weights (E, M, D) where and as they are used now, if so."""
    dtype = _computed_in(weight)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"torch has none in {str(dtype).removeprefix('torch.')}"
    if torch.compiler.is_compiling() and dtype is not torch.bfloat16:
        return "compiled it needs bfloat16"
    if weight.is_cuda and torch.cuda.get_device_capability(weight.device) < (8, 0):
        return "it needs a GPU of compute capability 8.0 or more"
    return None


class Experts(nn.Module):
    """E gated MLPs ``down(activation(gate(x)) * up(x))``, packed by kind of weight; each sees its own tokens.

    ``implementation`` is a name in ``EXPERTS``; None is grouped_mm where torch has that, else eager. They
    give the same numbers. ``ConfigError`` for an unknown name, and for grouped_mm where it cannot be.
    """

    def __init__(
        self,
        experts: int,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        implementation: str | None = None,
    ):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden_size, intermediate_size))
        self.activation = ACTIVATIONS[activation]
        self.set_implementation(implementation)

    def set_implementation(self, name: str | None) -> None:
        """Compute by ``name`` from now on."""
        if name is not None and name not in EXPERTS:
            raise ConfigError(f"experts_implementation: there is no {name!r}; {nearest(name, EXPERTS)}")
        if name == "grouped_mm" and not self._aligned:
            _, hidden, width = self.down_proj.shape
            raise ConfigError(
                "experts_implementation: grouped_mm needs widths that 8 divides, and an expert's are "
                f"{hidden} and {width}; take eager"
            )
        self.implementation = name

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        """Draw all weights from normal(0, std)."""
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=std, generator=generator)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Tokens (N, D), their experts (N, k) and what those weigh (N, k) -> the weighted sums (N, D)."""
        tokens, per_token = chosen.shape
        owners, order = chosen.flatten().sort(stable=True)  # the pairs of one expert together
        compute = EXPERTS[self._implementation()]
        found = compute(x[order // per_token], owners, self.gate_up_proj, self.down_proj, self.activation)
        # Back in the tokens' order they are summed, always in the same order and in the weights' type.
        found = found[order.argsort()].view(tokens, per_token, -1)
        return (found * weights[..., None]).sum(dim=1).to(x.dtype)

    @property
    def _aligned(self) -> bool:
        """Rows of whole 16 bytes even in half precision."""
        return not any(width % 8 for width in self.down_proj.shape[1:])

    def _implementation(self) -> str:
        if self.implementation not in (None, "grouped_mm"):
            return self.implementation
        problem = grouped_mm_problem(self.gate_up_proj)
        if self.implementation is not None and problem is not None:
            raise ConfigError(f"experts_implementation: grouped_mm cannot be used, {problem}; take eager")
        return "grouped_mm" if problem is None and self._aligned else "eager"


class TokenChoiceRouter(nn.Module):
    """Each token chooses its k experts by their scores, the sigmoids of one linear layer.

    A bias on the scores takes part in the choice alone. The chosen scores are divided by their sum and
    multiplied by ``scale``.
    """

    def __init__(self, hidden_size: int, experts: int, per_token: int, scale: float):
        super().__init__()
        self.gate = _Gate(hidden_size, experts, bias=False)
        self.per_token, self.scale = per_token, scale

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (N, D), bias (E,) -> logits (N, E) and weights (N, k) in fp32, chosen experts (N, k)."""
        logits = self.gate(x).float()
        scores = logits.sigmoid()
        chosen = (scores + bias).topk(self.per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20) * self.scale
        return logits, weights, chosen


class _Gate(nn.Linear):
    """Begins as zero: no expert is preferred."""

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        nn.init.zeros_(self.weight)


class MixtureOfExperts(nn.Module):
    """A gated MLP for all tokens, of the width of ``shared`` experts, plus the experts each token chooses.

    ``expert_bias`` (E,) takes part in that choice. It is saved and no parameter, so that no optimizer,
    freezing or average touches it: whoever trains moves it, by how many tokens each expert got.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        *,
        experts: int,
        per_token: int,
        shared: int,
        scale: float,
        implementation: str | None = None,
    ):
        super().__init__()
        self.router = TokenChoiceRouter(hidden_size, experts, per_token, scale)
        self.shared_experts = GatedMLP(hidden_size, shared * intermediate_size, activation, bias=False)
        self.experts = Experts(experts, hidden_size, intermediate_size, activation, implementation)
        self.expert_bias: Tensor
        self.register_buffer("expert_bias", torch.empty(experts))

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        """Begin without a bias; the parts draw their own weights."""
        nn.init.zeros_(self.expert_bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> (..., D), and of the N tokens the router's logits (N, E) and chosen experts (N, k)."""
        tokens = x.flatten(0, -2)
        logits, weights, chosen = self.router(tokens, self.expert_bias)
        out = self.shared_experts(tokens) + self.experts(tokens, chosen, weights)
        return out.view_as(x), logits, chosen


def expert_load(chosen: Tensor, experts: int, real: Tensor | None = None) -> Tensor:
    """How many tokens each expert got (E,), of choices (N, k); with ``real`` (N,) of those that are."""
    ones = torch.ones_like(chosen) if real is None else real[:, None].expand_as(chosen).to(chosen.dtype)
    return chosen.new_zeros(experts).scatter_add_(0, chosen.flatten(), ones.flatten())
