"""Rotary position embeddings in the half-rotation layout, with the context-stretching variants of the field.

Sources: RoFormer (Su et al., 2021); linear and dynamic NTK scaling; YaRN (Peng et al., 2023); LongRoPE (Ding
et al., 2024); Llama 3.1's piecewise scaling. Shapes: B batch, T tokens, C channels of a head, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.rope import RopeParameters


class RotaryEmbedding(nn.Module):
    """Cosines and sines that turn queries and keys by their positions.

    It holds no parameter and no buffer: its frequencies are computed in fp32 when it is made, stay fp32 when
    the model is cast, and exist even where the rest of the model is on the meta device.
    ``dynamic`` and ``longrope`` depend on how long a document is; see ``forward``.
    """

    def __init__(self, head_dim: int, max_position_embeddings: int, rope: RopeParameters):
        super().__init__()
        self.rope, self.head_dim, self.max_positions = rope, head_dim, max_position_embeddings
        with torch.device("cpu"):
            exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
            tables, self.scale = _frequencies(rope, exponents, max_position_embeddings)
        self._on_device = {tables.device: tables}

    def forward(self, position_ids: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, T, C) in fp32 of positions (B, T).

        ``lengths`` (B, T) is the length of the document that each token belongs to; without it the batch
        counts as one document that ends at its highest position.
        """
        frequencies = self._frequencies(position_ids, lengths)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.scale, angles.sin() * self.scale

    def _frequencies(self, position_ids: Tensor, lengths: Tensor | None) -> Tensor:
        """Frequencies that broadcast to (B, T, C / 2)."""
        device = position_ids.device
        if device not in self._on_device:
            cpu = torch.device("cpu")
            self._on_device[device] = self._on_device[cpu].to(device)
        tables = self._on_device[device]
        if self.rope.rope_type not in ("dynamic", "longrope"):
            return tables
        length = position_ids.max() + 1 if lengths is None else lengths[..., None]
        if self.rope.rope_type == "longrope":
            short, long = tables
            return torch.where(length > self.rope.original_max_position_embeddings, long, short)
        # NTK scaling: beyond the trained length the base grows with the document.
        factor, longest = self.rope.factor, length.clamp(min=self.max_positions).float()
        growth = (factor * longest / self.max_positions) - (factor - 1)
        base = self.rope.rope_theta * growth ** (self.head_dim / (self.head_dim - 2))
        return 1.0 / base**tables


def _frequencies(rope: RopeParameters, exponents: Tensor, max_positions: int) -> tuple[Tensor, float]:
    """Fp32 frequencies (C / 2) and the factor on cosines and sines; for ``dynamic`` the exponents instead,
    for ``longrope`` the short and the long set stacked."""
    plain = 1.0 / rope.rope_theta**exponents
    match rope.rope_type:
        case "default":
            return plain, 1.0
        case "linear":
            return plain / rope.factor, 1.0
        case "dynamic":
            return exponents, 1.0
        case "longrope":
            return _longrope(rope, exponents, max_positions)
        case "yarn":
            return _yarn(rope, plain)
        case "llama3":
            return _llama3(rope, plain), 1.0
    raise AssertionError(rope.rope_type)


def _longrope(rope: RopeParameters, exponents: Tensor, max_positions: int) -> tuple[Tensor, float]:
    original = rope.original_max_position_embeddings
    factor = max_positions / original if rope.factor is None else rope.factor
    scale = rope.attention_factor
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    divisors = torch.tensor([rope.short_factor, rope.long_factor], dtype=torch.float32)
    return 1.0 / (divisors * rope.rope_theta**exponents), scale


def _yarn(rope: RopeParameters, plain: Tensor) -> tuple[Tensor, float]:
    """Keep the fast channels, stretch the slow ones, and blend linearly in between."""
    half = plain.shape[0]

    def channel(rotations: float) -> float:  # the pair that turns this often within the original context
        wavelength = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
        return half * math.log(wavelength) / math.log(rope.rope_theta)

    low, high = channel(rope.beta_fast or 32), channel(rope.beta_slow or 1)
    if rope.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = (torch.arange(half, dtype=torch.float32) - low) / ((high - low) or 0.001)
    stretched = ramp.clamp(0, 1)
    frequencies = plain / rope.factor * stretched + plain * (1 - stretched)
    if rope.attention_factor is not None:
        return frequencies, rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return frequencies, _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return frequencies, _mscale(rope.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _llama3(rope: RopeParameters, plain: Tensor) -> Tensor:
    """Keep short wavelengths, stretch those beyond the original context, and blend in between."""
    turns = rope.original_max_position_embeddings * plain / (2 * math.pi)  # within the original context
    keep = ((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)
    return plain * keep + plain / rope.factor * (1 - keep)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, H, T, C) by cosines and sines that broadcast to it; channel i pairs with channel i + C / 2."""
    first, second = x.chunk(2, dim=-1)
    turned = x * cos + torch.cat((-second, first), dim=-1) * sin
    return turned.to(x.dtype)  # under autocast the cosines are wider than x


def rotate_both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Turn queries (B, H, T, C) and keys (B, K, T, C) by the same positions, for K key/value heads.

    An attention layer holds it as ``rotate``, so that a kernel that turns both at once can take its place.
    """
    return rotate(q, cos, sin), rotate(k, cos, sin)
