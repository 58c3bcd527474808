"""Attention by name over queries, keys and values, for padded, packed and cached batches alike.

Every backend answers the same call and gives the same numbers; ``Visibility`` says which keys a query sees.
Shapes: B batch, T queries, S keys (cached ones first), N packed tokens, H query heads, K key/value heads (H
is a multiple of K), C channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.errors import ConfigError
from conf.plugins import nearest


class ComputedOnce:
    """``functools.cached_property`` without the lock, which breaks a compiled model's graph at every use."""

    def __init__(self, compute: Callable[[Any], Any]):
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, owner: Any, _: type | None = None) -> Any:
        if owner is None:
            return self
        value = owner.__dict__[self.compute.__name__] = self.compute(owner)  # found there from now on
        return value


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """Which keys each query may see: those of its own document that are no padding.

    If ``causal``, also none later than itself, and with a ``window`` none that many tokens back or more; the
    last ``num_queries`` of the ``num_keys`` positions are asked for then, those before them are cached.
    ``across``: the keys are an encoder's and not of the queries' own sequence. ``padding`` (B, S) is true
    where a key is of a token. ``cu_seqlens`` (documents + 1) are the borders of the documents packed into one
    row. Masks are made when a backend first needs them, once for all layers.
    """

    num_queries: int
    num_keys: int
    device: torch.device
    padding: Tensor | None = None
    cu_seqlens: Tensor | None = None
    causal: bool = True
    window: int | None = None
    across: bool = False

    def __post_init__(self) -> None:
        assert self.causal or self.window is None, "a window looks back"

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None = None,
        cached: int = 0,
        *,
        causal: bool = True,
        window: int | None = None,
    ) -> Visibility:
        """Of hidden states (B, T, D) among themselves and ``cached`` tokens before them.

        ``attention_mask`` (B, cached + T) is 1 at tokens; one that hides nothing is dropped.
        """
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
            if _hides_nothing(attention_mask, cached, causal):
                attention_mask = None
        return cls(
            num_queries=num_queries,
            num_keys=num_keys,
            device=hidden.device,
            padding=attention_mask,
            cu_seqlens=cu_seqlens,
            causal=causal,
            window=window,
        )

    @classmethod
    def of_encoded(cls, hidden: Tensor, encoded: Tensor, attention_mask: Tensor | None) -> Visibility:
        """Of hidden states (B, T, D) on an encoder's (B, S, D), whose ``attention_mask`` is (B, S)."""
        padding = None if attention_mask is None else attention_mask.bool()
        if padding is not None and padding.shape != encoded.shape[:2]:
            raise ValueError(
                f"encoder_attention_mask: expected shape {tuple(encoded.shape[:2])} (batch, encoded tokens), "
                f"got {tuple(padding.shape)}"
            )
        if padding is not None and _hides_nothing(padding, cached=0, causal=False):
            padding = None
        sizes = {"num_queries": hidden.shape[1], "num_keys": encoded.shape[1]}
        return cls(**sizes, device=hidden.device, padding=padding, causal=False, across=True)

    @property
    def looks_back(self) -> int | None:
        """How many tokens a query sees at most, itself included; None where that limits nothing here."""
        return None if self.window is None or self.window >= self.num_keys else self.window

    @property
    def by_position(self) -> bool:
        """Whether nothing but being later hides a key."""
        return self.padding is None and self.cu_seqlens is None and self.looks_back is None

    @ComputedOnce
    def document_of(self) -> Tensor:
        """(N,) the index of each packed token's document."""
        positions = torch.arange(self.num_keys, device=self.device)
        return torch.bucketize(positions, self.cu_seqlens[1:].to(positions.dtype), right=True)

    @ComputedOnce
    def document_lengths(self) -> list[int]:
        """Tokens of each packed document."""
        return self.cu_seqlens.diff().tolist()

    @ComputedOnce
    def alone(self) -> list[Visibility]:
        """Each packed document's own."""
        return [
            Visibility(num_queries=n, num_keys=n, device=self.device, causal=self.causal, window=self.window)
            for n in self.document_lengths
        ]

    @ComputedOnce
    def mask(self) -> Tensor:
        """(1 or B, 1, T, S) true where a query sees a key.

        So that no query sees nothing, padding sees itself if ``causal``, and everything in a row of padding.
        """
        if self.causal:
            keys = torch.arange(self.num_keys, device=self.device)
            queries = keys[self.num_keys - self.num_queries :, None]
            mask = (keys <= queries)[None, None]
            if self.window is not None:
                mask = mask & (queries - keys < self.window)
            if self.padding is not None:
                mask = mask & self.padding[:, None, None, :] | (keys == queries)
        else:
            mask = torch.ones(1, 1, self.num_queries, self.num_keys, dtype=torch.bool, device=self.device)
            if self.padding is not None:
                mask = mask & self._padding_but_in_empty_rows[:, None, None, :]
        if self.cu_seqlens is not None:
            mask = mask & (self.document_of[:, None] == self.document_of)
        return mask

    @property
    def real_queries(self) -> Tensor:
        """(B, T) true where a query is no padding; in cross-attention all count."""
        assert self.padding is not None
        if self.across:
            return self.padding.new_ones(len(self.padding), self.num_queries)
        return self.padding[:, self.num_keys - self.num_queries :]

    @ComputedOnce
    def _padding_but_in_empty_rows(self) -> Tensor:
        assert self.padding is not None
        return self.padding | ~self.padding.any(dim=1, keepdim=True)

    @ComputedOnce
    def block_mask(self) -> Any:
        """The same as ``mask``, in the form that flex attention takes."""
        from torch.nn.attention.flex_attention import create_block_mask

        offset = self.num_keys - self.num_queries
        documents = None if self.cu_seqlens is None else self.document_of
        padding = self.padding
        if padding is not None and not self.causal:
            padding = self._padding_but_in_empty_rows

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            seen = k <= q + offset if self.causal else k >= 0
            if self.window is not None:
                seen = seen & (q + offset - k < self.window)
            if padding is not None:
                seen = seen & padding[b, k] | (self.causal & (k == q + offset))
            if documents is not None:
                seen = seen & (documents[q] == documents[k])
            return seen

        batch = None if padding is None else padding.shape[0]
        return create_block_mask(visible, batch, None, self.num_queries, self.num_keys, device=self.device)


def _hides_nothing(mask: Tensor, cached: int, causal: bool) -> bool:
    """Whether there is no padding, or causality alone keeps it from real tokens: it is on the right."""
    if mask.device.type == "meta" or torch.compiler.is_compiling():
        return False
    visible = mask[:, 1:] <= mask[:, :-1] if causal and not cached else mask
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
    if not visibility.by_position:
        mask = visibility.mask
    elif visibility.causal and visibility.num_queries == visibility.num_keys:
        causal = True
    elif visibility.causal and visibility.num_queries > 1:
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
        out = varlen_attn(
            *(q, k, v, borders, borders, longest, longest),
            scale=scale,
            window_size=_reach(visibility),
            enable_gqa=grouped,
        )
        return out.transpose(0, 1)[None]
    parts = (x.split(lengths, dim=2) for x in (q, k, v))
    outs = [
        sdpa_attention(*part, alone, scale=scale, dropout=dropout)[0]
        for *part, alone in zip(*parts, visibility.alone, strict=True)
    ]
    return torch.cat(outs, dim=2)


def _reach(visibility: Visibility) -> tuple[int, int]:
    """How many tokens before and after itself a query sees, as FlashAttention wants it: -1 for all."""
    if not visibility.causal:
        return (-1, -1)
    return (-1 if visibility.window is None else visibility.window - 1, 0)


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
    options = {
        "dropout_p": dropout,
        "softmax_scale": scale,
        "causal": visibility.causal,
        "window_size": _reach(visibility),
    }
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, T, H, C)
    if visibility.cu_seqlens is not None:
        borders, longest = visibility.cu_seqlens.int(), max(visibility.document_lengths)
        out = flash_attn_varlen_func(q[0], k[0], v[0], borders, borders, longest, longest, **options)[None]
    elif visibility.padding is not None:
        real_k = visibility.padding
        real_q = visibility.real_queries
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


def require_weights(output_attentions: bool, attn_implementation: str) -> None:
    """``ConfigError`` where a backend is to return attention weights that never exist as a whole."""
    if output_attentions and attn_implementation != "eager":
        raise ConfigError("output_attentions: only attn_implementation eager has attention weights to return")


def attention_named(name: str) -> Attention:
    """The backend ``name``: ``attend(q, k, v, visibility, *, scale, dropout) -> (out, weights or None)``.

    q is (B, H, T, C), k and v are (B, K, S, C), out is (B, H, T, C). ``ConfigError`` for an unknown name.
    """
    if name not in ATTENTION:
        raise ConfigError(f"model.attn_implementation: there is no {name!r}; {nearest(name, ATTENTION)}")
    return ATTENTION[name]
