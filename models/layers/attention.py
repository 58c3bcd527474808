"""Attention by name over queries, keys and values, for padded, packed and cached batches alike.

Every backend answers the same call and gives the same numbers; ``Visibility`` says which keys a query sees.
Shapes: B batch, T queries, S keys (cached ones first), N packed tokens, H query heads, K key/value heads (H
is a multiple of K), C channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.errors import ConfigError
from conf.plugins import nearest


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """Which keys each query may see: those of its own document that are no padding and not later than itself.

    The last ``num_queries`` of the ``num_keys`` positions are asked for; the ones before them are cached.
    ``padding`` (B, S) is true where there is a token. ``cu_seqlens`` (documents + 1) are the borders of the
    documents packed into one row. Masks are made when a backend first needs them, once for all layers.
    """

    num_queries: int
    num_keys: int
    device: torch.device
    padding: Tensor | None = None
    cu_seqlens: Tensor | None = None

    @classmethod
    def of(
        cls, hidden: Tensor, attention_mask: Tensor | None, cu_seqlens: Tensor | None, cached: int
    ) -> Visibility:
        """For hidden states (B, T, D) after ``cached`` tokens; a mask that hides nothing is dropped."""
        batch, num_queries = hidden.shape[:2]
        num_keys = cached + num_queries
        if cu_seqlens is not None and (attention_mask is not None or cached or batch != 1):
            raise ValueError(
                "cu_seqlens describes one packed row: give it no attention_mask, no cache, batch size 1"
            )
        if attention_mask is not None:
            if attention_mask.shape != (batch, num_keys):
                raise ValueError(
                    f"attention_mask: expected shape {(batch, num_keys)} (batch, cached + new tokens), "
                    f"got {tuple(attention_mask.shape)}"
                )
            attention_mask = attention_mask.bool()
            if _hides_nothing(attention_mask, cached):
                attention_mask = None
        return cls(
            num_queries=num_queries,
            num_keys=num_keys,
            device=hidden.device,
            padding=attention_mask,
            cu_seqlens=cu_seqlens,
        )

    @property
    def plainly_causal(self) -> bool:
        """Whether position alone decides."""
        return self.padding is None and self.cu_seqlens is None

    @cached_property
    def document_of(self) -> Tensor:
        """(N,) the index of each packed token's document."""
        positions = torch.arange(self.num_keys, device=self.device)
        return torch.bucketize(positions, self.cu_seqlens[1:].to(positions.dtype), right=True)

    @cached_property
    def document_lengths(self) -> list[int]:
        """Tokens of each packed document."""
        return self.cu_seqlens.diff().tolist()

    @cached_property
    def mask(self) -> Tensor:
        """(1 or B, 1, T, S) true where a query sees a key. Padding sees itself, so that no row is empty."""
        keys = torch.arange(self.num_keys, device=self.device)
        queries = keys[self.num_keys - self.num_queries :, None]
        mask = (keys <= queries)[None, None]
        if self.padding is not None:
            mask = mask & self.padding[:, None, None, :] | (keys == queries)
        if self.cu_seqlens is not None:
            mask = mask & (self.document_of[:, None] == self.document_of)
        return mask

    @cached_property
    def block_mask(self) -> Any:
        """The same as ``mask``, in the form that flex attention takes."""
        from torch.nn.attention.flex_attention import create_block_mask

        offset = self.num_keys - self.num_queries
        padding, documents = self.padding, None if self.cu_seqlens is None else self.document_of

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            seen = k <= q + offset
            if padding is not None:
                seen = seen & padding[b, k] | (k == q + offset)
            if documents is not None:
                seen = seen & (documents[q] == documents[k])
            return seen

        batch = None if padding is None else padding.shape[0]
        return create_block_mask(visible, batch, None, self.num_queries, self.num_keys, device=self.device)


def _hides_nothing(mask: Tensor, cached: int) -> bool:
    """Whether causality alone keeps every real token from padding: there is none, or only on the right."""
    if mask.device.type == "meta" or torch.compiler.is_compiling():
        return False
    visible = mask if cached else mask[:, 1:] <= mask[:, :-1]
    return bool(visible.all())


def eager_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, *, scale: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Attention spelled out; the only one that also returns its weights (B, H, T, S)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) * scale
    scores = scores.masked_fill(~visibility.mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v, weights


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, *, scale: float, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """torch's fused attention. Packed documents run one by one, or in a varlen kernel where there is one."""
    if visibility.cu_seqlens is not None:
        return _sdpa_packed(q, k, v, visibility, scale=scale, dropout=dropout), None
    mask, causal = None, False
    if not visibility.plainly_causal:
        mask = visibility.mask
    elif visibility.num_queries == visibility.num_keys:
        causal = True
    elif visibility.num_queries > 1:
        mask = visibility.mask
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return out, None


def _sdpa_packed(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, *, scale: float, dropout: float
) -> Tensor:
    grouped, lengths = q.shape[1] != k.shape[1], visibility.document_lengths
    if _has_varlen_kernel(q, dropout):
        from torch.nn.attention.varlen import varlen_attn

        borders, longest = visibility.cu_seqlens.int(), max(lengths)
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # (N, H or K, C)
        causal = (-1, 0)  # a window: everything before, nothing after
        out = varlen_attn(
            *(q, k, v, borders, borders, longest, longest),
            scale=scale,
            window_size=causal,
            enable_gqa=grouped,
        )
        return out.transpose(0, 1)[None]
    parts = (x.split(lengths, dim=2) for x in (q, k, v))
    outs = [
        F.scaled_dot_product_attention(
            *part, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=grouped
        )
        for part in zip(*parts, strict=True)
    ]
    return torch.cat(outs, dim=2)


def _has_varlen_kernel(q: Tensor, dropout: float) -> bool:
    """torch's varlen kernel is FlashAttention: half precision on Ampere or newer, without dropout."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return q.is_cuda and half and dropout == 0 and torch.cuda.get_device_capability(q.device) >= (8, 0)


def flash_attention_2(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, *, scale: float, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """The flash-attn package's kernels: fp16 or bf16, on a GPU; padding is taken out and put back."""
    try:
        from flash_attn import flash_attn_func, flash_attn_varlen_func
    except ImportError:
        raise ConfigError(
            "model.attn_implementation: flash_attention_2 needs a package: pip install flash-attn"
        ) from None
    options = {"dropout_p": dropout, "softmax_scale": scale, "causal": True}
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, T, H, C)
    if visibility.cu_seqlens is not None:
        borders, longest = visibility.cu_seqlens.int(), max(visibility.document_lengths)
        out = flash_attn_varlen_func(q[0], k[0], v[0], borders, borders, longest, longest, **options)[None]
    elif visibility.padding is not None:
        real_k = visibility.padding
        real_q = real_k[:, visibility.num_keys - visibility.num_queries :]
        borders_q, borders_k = _borders(real_q), _borders(real_k)
        longest_q, longest_k = int(borders_q.diff().max()), int(borders_k.diff().max())
        packed = (q[real_q], k[real_k], v[real_k])
        out = torch.zeros_like(q)
        out[real_q] = flash_attn_varlen_func(*packed, borders_q, borders_k, longest_q, longest_k, **options)
    else:
        out = flash_attn_func(q, k, v, **options)
    return out.transpose(1, 2), None


def _borders(real: Tensor) -> Tensor:
    """(B, T) true at tokens -> (B + 1) where each row begins once the padding is taken out."""
    return F.pad(real.sum(dim=1).cumsum(dim=0), (1, 0)).int()


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    """Flex attention as one kernel; compiled once a process."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    return torch.compile(flex)


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, *, scale: float, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """torch's flex attention under a block mask; on a CPU it has no backward, so it cannot train there."""
    from torch.nn.attention.flex_attention import flex_attention as flex

    if dropout:
        raise ConfigError(
            "model.attn_implementation: flex_attention has no dropout, set attention_dropout to 0"
        )
    if (
        q.device.type == "cpu"
        and torch.is_grad_enabled()
        and (q.requires_grad or k.requires_grad or v.requires_grad)
    ):
        raise ConfigError("model.attn_implementation: flex_attention cannot train on a CPU, use sdpa")
    attend = _compiled_flex() if q.is_cuda else flex
    grouped = q.shape[1] != k.shape[1]
    return attend(q, k, v, block_mask=visibility.block_mask, scale=scale, enable_gqa=grouped), None


Attention = Callable[..., tuple[Tensor, Tensor | None]]

ATTENTION: dict[str, Attention] = {
    "eager": eager_attention,
    "sdpa": sdpa_attention,
    "flash_attention_2": flash_attention_2,
    "flex_attention": flex_attention,
}


def attention_named(name: str) -> Attention:
    """The backend ``name``: ``attend(q, k, v, visibility, *, scale, dropout) -> (out, weights or None)``.

    q is (B, H, T, C), k and v are (B, K, S, C), out is (B, H, T, C). ``ConfigError`` for an unknown name.
    """
    if name not in ATTENTION:
        raise ConfigError(f"model.attn_implementation: there is no {name!r}; {nearest(name, ATTENTION)}")
    return ATTENTION[name]
