"""How long an encoded text may or must be: strategies of padding and truncation, and what a call asks for.

Lengths are in tokens, special tokens included.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from enum import StrEnum

from conf import logging

logger = logging.get_logger(__name__)

NO_LIMIT = int(1e30)  # the reference's ``model_max_length`` of a tokenizer without a limit
_UNREAL = int(1e20)  # limits above are none


class PaddingStrategy(StrEnum):
    """``longest``: to the longest of the batch; ``max_length``: to a given length; or no padding."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(StrEnum):
    """Which sequence of a pair is cut: the first, the second, the longer one token by token, or none."""

    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    LONGEST_FIRST = "longest_first"
    DO_NOT_TRUNCATE = "do_not_truncate"


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What a call does to lengths. ``stride``: tokens that windows of a cut text have in common."""

    padding: PaddingStrategy = PaddingStrategy.DO_NOT_PAD
    truncation: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE
    max_length: int | None = None
    stride: int = 0
    pad_to_multiple_of: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"

    def __post_init__(self) -> None:
        for name in ("padding_side", "truncation_side"):
            check_side(name, getattr(self, name))

    @property
    def pads(self) -> bool:
        return self.padding is not PaddingStrategy.DO_NOT_PAD

    @property
    def truncates(self) -> bool:
        return self.truncation is not TruncationStrategy.DO_NOT_TRUNCATE

    def padded(self, longest: int) -> int:
        """The length that a batch is padded to whose longest row has ``longest`` tokens."""
        fixed = self.max_length if self.padding is PaddingStrategy.MAX_LENGTH else None
        length = longest if fixed is None else fixed
        multiple = self.pad_to_multiple_of or 1
        return -(-length // multiple) * multiple


def check_side(name: str, side: str) -> None:
    """``ValueError`` where a side is neither right nor left."""
    if side not in ("right", "left"):
        raise ValueError(f"{name}: {side!r} was given; right or left would do.")


def resolve(
    asked: Lengths,
    *,
    padding: bool | str | PaddingStrategy,
    truncation: bool | str | TruncationStrategy | None,
    model_max_length: int,
    verbose: bool = True,
) -> Lengths:
    """``asked`` with the strategies that ``padding`` and ``truncation`` stand for.

    A ``max_length`` alone truncates. Without one the model's limit counts, and where there is none, what
    needs a length is not done. Raises ``ValueError`` for unknown strategies, and where a batch would be cut
    to a length that padding makes longer again.
    """
    length = asked.max_length
    if length is not None and padding is False and truncation is None:
        truncation = True
    pads, cuts = padding_strategy(padding), truncation_strategy(truncation)
    if padding is True and length is not None and cuts is TruncationStrategy.DO_NOT_TRUNCATE and verbose:
        warnings.warn(
            "max_length has no effect with padding=True and no truncation; padding='max_length' pads to it.",
            stacklevel=4,
        )
    if length is None and model_max_length > _UNREAL:
        cuts = TruncationStrategy.DO_NOT_TRUNCATE
        pads = PaddingStrategy.DO_NOT_PAD if pads is PaddingStrategy.MAX_LENGTH else pads
    elif length is None and (
        pads is PaddingStrategy.MAX_LENGTH or cuts is not TruncationStrategy.DO_NOT_TRUNCATE
    ):
        length = model_max_length
    found = replace(asked, padding=pads, truncation=cuts, max_length=length)
    multiple = found.pad_to_multiple_of
    if found.pads and found.truncates and multiple is not None and length is not None and length % multiple:
        raise ValueError(
            f"max_length: {length} was given with truncation and padding to multiples of {multiple}; "
            f"{length // multiple * multiple} would do."
        )
    return found


def padding_strategy(padding: bool | str | PaddingStrategy) -> PaddingStrategy:
    """The strategy that an argument ``padding`` names; True is ``longest``."""
    if isinstance(padding, bool):
        return PaddingStrategy.LONGEST if padding else PaddingStrategy.DO_NOT_PAD
    return PaddingStrategy(_known("padding", padding, PaddingStrategy))


def truncation_strategy(truncation: bool | str | TruncationStrategy | None) -> TruncationStrategy:
    """The strategy that an argument ``truncation`` names; True is ``longest_first``."""
    if truncation is None or isinstance(truncation, bool):
        return TruncationStrategy.LONGEST_FIRST if truncation else TruncationStrategy.DO_NOT_TRUNCATE
    return TruncationStrategy(_known("truncation", truncation, TruncationStrategy))


def _known(name: str, value: str, strategies: type[StrEnum]) -> str:
    if value not in list(strategies):
        raise ValueError(
            f"{name}: {value!r} was given; True, False or one of {', '.join(strategies)} would do."
        )
    return value


def truncate_sequences(
    ids: list[int],
    pair_ids: list[int] | None = None,
    num_tokens_to_remove: int = 0,
    truncation_strategy: str | TruncationStrategy = TruncationStrategy.LONGEST_FIRST,
    stride: int = 0,
    *,
    side: str = "right",
) -> tuple[list[int], list[int] | None, list[int]]:
    """Both sequences with tokens removed at ``side``, and the removed ones with ``stride`` kept ones.

    ``longest_first`` with a pair tells no removed tokens: they come from two places. Source: the reference's
    method of this name.
    """
    strategy = TruncationStrategy(_known("truncation_strategy", truncation_strategy, TruncationStrategy))
    if num_tokens_to_remove <= 0:
        return ids, pair_ids, []
    if strategy is TruncationStrategy.LONGEST_FIRST and pair_ids is not None:
        logger.warning("truncation longest_first: what is cut off from pairs of sequences is not returned.")
        first, second = _shares(len(ids), len(pair_ids), num_tokens_to_remove)
        return _cut(ids, first, side), _cut(pair_ids, second, side), []
    window = num_tokens_to_remove + stride
    if strategy in (TruncationStrategy.ONLY_FIRST, TruncationStrategy.LONGEST_FIRST):
        return _cut(ids, num_tokens_to_remove, side), pair_ids, _end(ids, window, side)
    if strategy is TruncationStrategy.ONLY_SECOND and pair_ids:
        return ids, _cut(pair_ids, num_tokens_to_remove, side), _end(pair_ids, window, side)
    return ids, pair_ids, []


def _shares(first: int, second: int, remove: int) -> tuple[int, int]:
    """How many tokens each of a pair loses: the longer one until both are equal, then in turns."""
    uneven = min(abs(first - second), remove)
    half = (remove - uneven) // 2
    if first > second:
        return uneven + half, remove - uneven - half
    return half, remove - half


def _cut(ids: list[int], count: int, side: str) -> list[int]:
    if side == "left":
        return ids[count:]
    return ids[: max(len(ids) - count, 0)]


def _end(ids: list[int], count: int, side: str) -> list[int]:
    return ids[:count] if side == "left" else ids[max(len(ids) - count, 0) :]
