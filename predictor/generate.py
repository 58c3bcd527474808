"""Continue token sequences with a causal language model, greedily or by sampling.

Shapes: B batch, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.task_model import TaskModel

Choose = Callable[[Tensor], Tensor]  # scores (B, V) -> tokens (B,)


@torch.no_grad()
def generate(
    model: TaskModel,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Tensor:
    """Prompts (B, T) with up to ``max_new_tokens`` more tokens each: (B, at most T + max_new_tokens).

    Prompts of different lengths are padded on the left, with ``attention_mask`` (B, T) 0 there. A row ends
    with the first of ``eos_token_id`` (one, several, or the configuration's) and is filled up with
    ``pad_token_id`` (the configuration's, else the first end token) until every row has ended.
    ``do_sample`` draws from the scores divided by ``temperature``, among the ``top_k`` best tokens, and among
    the fewest that hold a share ``top_p`` of the probability; randomness comes from ``generator``, from one
    seeded with ``seed``, or from torch's. The model is in evaluation mode meanwhile.
    ``ValueError`` for settings that cannot be, or that have no effect.
    """
    _check_prompts(input_ids, attention_mask, max_new_tokens)
    settings = (temperature, top_k, top_p, seed, generator)
    if not do_sample and any(setting is not None for setting in settings):
        raise ValueError(
            "temperature, top_k, top_p, seed and generator have no effect without do_sample=True"
        )
    if seed is not None and generator is not None:
        raise ValueError("seed: give it or a generator, not both")
    if seed is not None:
        generator = torch.Generator(input_ids.device).manual_seed(seed)
    draw = Draw(
        temperature=1.0 if temperature is None else temperature, top_k=top_k, top_p=top_p, generator=generator
    )
    ends, pad = _end_tokens(model, eos_token_id), pad_token_id
    if pad is None:
        pad = getattr(model.config, "pad_token_id", None)
    if pad is None:
        pad = ends[0] if ends else 0  # without end tokens no row is filled up
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    with _evaluating(model):
        choose = draw if do_sample else _best
        return _continue(model, input_ids, mask, choose, max_new_tokens, ends, pad, use_cache=use_cache)


def _continue(
    model: TaskModel,
    ids: Tensor,
    mask: Tensor,
    choose: Choose,
    steps: int,
    ends: Sequence[int],
    pad: int,
    *,
    use_cache: bool,
) -> Tensor:
    """One token a step for every row that has not ended."""
    end_tokens = torch.tensor(ends, dtype=ids.dtype, device=ids.device)
    running = torch.ones_like(ids[:, 0], dtype=torch.bool)
    cache = None
    for _ in range(steps):
        new = slice(0 if cache is None else cache.get_seq_length(), None)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)  # padding on the left does not count
        out = model(
            input_ids=ids[:, new],
            attention_mask=mask,
            position_ids=positions[:, new],
            past_key_values=cache,
            use_cache=use_cache,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        tokens = torch.where(running, choose(out.logits[:, -1].float()), pad)[:, None]
        ids, mask = torch.cat((ids, tokens), dim=1), torch.cat((mask, torch.ones_like(tokens)), dim=1)
        running = running & ~torch.isin(tokens[:, 0], end_tokens)
        if not running.any():
            break
    return ids


def _best(scores: Tensor) -> Tensor:
    """The token with the highest score."""
    return scores.argmax(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Draw one token a row from scores (B, V); ``ValueError("setting: what is wrong")``."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature: must be greater than 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k: must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be in (0, 1], got {self.top_p}")

    def __call__(self, scores: Tensor) -> Tensor:
        scores = scores / self.temperature
        if self.top_k is not None:
            least = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p is not None:
            ordered, order = scores.sort(dim=-1, descending=True)
            shares = ordered.softmax(dim=-1)
            beyond = shares.cumsum(dim=-1) - shares >= self.top_p  # what is better already holds the share
            scores = scores.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
        return torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator).squeeze(-1)


def _end_tokens(model: TaskModel, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """The tokens that end a row: the given ones, else the configuration's."""
    if given is None:
        given = getattr(model.config, "eos_token_id", None)
    if given is None:
        return ()
    return (given,) if isinstance(given, int) else tuple(given)


def _check_prompts(input_ids: Tensor, attention_mask: Tensor | None, max_new_tokens: int) -> None:
    if input_ids.dim() != 2 or not input_ids.shape[1]:
        raise ValueError(f"input_ids: expected (batch, at least one token), got {tuple(input_ids.shape)}")
    if attention_mask is not None and not attention_mask[:, -1].all():
        raise ValueError("attention_mask: prompts are padded on the left, but a row ends with padding")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens: must be at least 0, got {max_new_tokens}")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and back as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
