"""How a checkpoint's layout differs from the one in memory, as data: renamed parts, split and merged tensors.

A family's ``convert.py`` lists its differences as ``CONVERTERS``; nothing here loads torch before a tensor is
converted. Keys are dotted; *sources* are those of files, *targets* those in memory, and ``reverse`` swaps the
two. Shapes: E experts, F features of one, D the width of the model::

    CONVERTERS = (
        WeightConverter(
            ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"),  # E x (F, D) each
            "mlp.experts.gate_up_proj",  # (E, 2F, D)
            (MergeModulelist(dim=0), Concatenate(dim=1)),
        ),
    )

Source: https://huggingface.co/docs/transformers/main/en/weightconverter
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Groups = list[list["Tensor"]]  # for each pattern its tensors, by number; a single one without ``*``


class Operation(Protocol):
    """One reversible step. ``copies`` says whether its results are new tensors or views of what was given."""

    copies: ClassVar[bool]

    def apply(self, groups: Groups, patterns: Sequence[str], config: Any) -> Groups:
        """The groups converted; ``patterns`` are those of the side that has several, else the targets."""

    @property
    def reverse(self) -> Operation: ...


@dataclass(frozen=True)
class Chunk:
    """One tensor to as many equal parts along ``dim`` as there are patterns; undoes ``Concatenate``."""

    dim: int = 0
    copies: ClassVar[bool] = False

    def apply(self, groups: Groups, patterns: Sequence[str], config: Any) -> Groups:
        count = len(patterns)
        for tensor in groups[0]:
            if tensor.shape[self.dim] % count:
                raise ValueError(f"{tuple(tensor.shape)} is not divisible by {count} along {self.dim}")
        parts = [tensor.chunk(count, self.dim) for tensor in groups[0]]
        return [list(group) for group in zip(*parts, strict=True)]

    @property
    def reverse(self) -> Concatenate:
        return Concatenate(self.dim)


@dataclass(frozen=True)
class Concatenate:
    """The tensors of all patterns, in the patterns' order, joined along ``dim``."""

    dim: int = 0
    copies: ClassVar[bool] = True

    def apply(self, groups: Groups, patterns: Sequence[str], config: Any) -> Groups:
        import torch

        return [[torch.cat(parts, self.dim) for parts in zip(*groups, strict=True)]]

    @property
    def reverse(self) -> Chunk:
        return Chunk(self.dim)


@dataclass(frozen=True)
class MergeModulelist:
    """The numbered tensors of each pattern, as of the experts of a layer, stacked along a new ``dim``."""

    dim: int = 0
    copies: ClassVar[bool] = True

    def apply(self, groups: Groups, patterns: Sequence[str], config: Any) -> Groups:
        import torch

        return [[torch.stack(group, self.dim)] for group in groups]

    @property
    def reverse(self) -> SplitModulelist:
        return SplitModulelist(self.dim)


@dataclass(frozen=True)
class SplitModulelist:
    """Each tensor to numbered ones, one for each index along ``dim``; undoes ``MergeModulelist``."""

    dim: int = 0
    copies: ClassVar[bool] = False

    def apply(self, groups: Groups, patterns: Sequence[str], config: Any) -> Groups:
        return [list(group[0].unbind(self.dim)) for group in groups]

    @property
    def reverse(self) -> MergeModulelist:
        return MergeModulelist(self.dim)


@dataclass(frozen=True)
class PermuteForRope:
    """Rows of query and key projections from interleaved pairs to the two halves that rotate together.

    Within a head of size 2h, row 2i goes to i and row 2i + 1 to h + i; ``inverse`` goes back. Weights are
    (heads * 2h, D), biases (heads * 2h,). ``heads`` is their number, or the configuration's field that has
    it; where there are several patterns, a mapping from a part of one to either gives queries and keys their
    own (grouped-query attention), and leaves what it does not name as it is.
    """

    heads: int | str | Mapping[str, int | str] = "num_attention_heads"
    inverse: bool = False
    copies: ClassVar[bool] = True

    def apply(self, groups: Groups, patterns: Sequence[str], config: Any) -> Groups:
        heads: list[int | str | None]
        if isinstance(self.heads, Mapping):
            heads = [self._named(pattern) for pattern in patterns]
        else:
            heads = [self.heads] * len(groups)
        return [
            [tensor if count is None else self._permuted(tensor, count, config) for tensor in group]
            for count, group in zip(heads, groups, strict=True)
        ]

    def _named(self, pattern: str) -> int | str | None:
        assert isinstance(self.heads, Mapping)
        return next((count for part, count in self.heads.items() if part in pattern.split(".")), None)

    def _permuted(self, tensor: Tensor, heads: int | str, config: Any) -> Tensor:
        count = getattr(config, heads) if isinstance(heads, str) else heads
        if tensor.shape[0] % (2 * count):
            raise ValueError(f"{tuple(tensor.shape)} are no rows of {count} heads of an even size")
        halves = (2, -1) if self.inverse else (-1, 2)
        return tensor.unflatten(0, (count, *halves)).transpose(1, 2).flatten(0, 2)

    @property
    def reverse(self) -> PermuteForRope:
        return PermuteForRope(self.heads, not self.inverse)


class Match(NamedTuple):
    """Where a key fits the patterns of one side: which, what stands around it, and the number at ``*``."""

    pattern: int
    before: str
    number: int
    after: str


class _Patterns:
    """Alternatives of whole dotted parts, found anywhere in a key; ``*`` is a natural number."""

    def __init__(self, patterns: str | Sequence[str]):
        given = (patterns,) if isinstance(patterns, str) else patterns
        self.patterns = tuple(pattern.strip(".") for pattern in given)
        if not self.patterns or "" in self.patterns or len(set(self.patterns)) < len(self.patterns):
            raise ValueError(f"{given!r}: at least one pattern is wanted, none empty and none twice")
        if any(pattern.split(".").count("*") != pattern.count("*") for pattern in self.patterns):
            raise ValueError(f"{given!r}: a * stands for a whole part of a key")
        self.numbered = {pattern.count("*") for pattern in self.patterns} == {1}
        if any("*" in pattern for pattern in self.patterns) and not self.numbered:
            raise ValueError(f"{given!r}: each pattern has one *, or none has any")
        self._compiled = [re.compile(_expression(pattern)) for pattern in self.patterns]

    def match(self, key: str) -> Match | None:
        for index, compiled in enumerate(self._compiled):
            if found := compiled.search(key):
                number = int(found[1]) if self.numbered else 0
                return Match(index, key[: found.start()], number, key[found.end() :])
        return None

    def key(self, match: Match) -> str:
        """The key that a match stands for."""
        return match.before + self.patterns[match.pattern].replace("*", str(match.number)) + match.after


def _expression(pattern: str) -> str:
    number = r"(0|[1-9][0-9]*)"
    parts = (number if part == "*" else re.escape(part) for part in pattern.split("."))
    return r"(?<![^.])" + r"\.".join(parts) + r"(?![^.])"


@dataclass(frozen=True)
class WeightRenaming:
    """Other dotted parts in a key: ``WeightRenaming("block_sparse_moe", "mlp")``; the first place counts."""

    source_patterns: str
    target_patterns: str

    def __post_init__(self) -> None:
        if self._sources.numbered or _Patterns(self.target_patterns).numbered:
            raise ValueError(f"{self}: a renaming leaves numbers as they are")

    @cached_property
    def _sources(self) -> _Patterns:
        return _Patterns(self.source_patterns)

    def rename(self, key: str) -> str:
        """The key, renamed if it fits."""
        found = self._sources.match(key)
        return key if found is None else f"{found.before}{self.target_patterns.strip('.')}{found.after}"

    @property
    def reverse(self) -> WeightRenaming:
        return WeightRenaming(self.target_patterns, self.source_patterns)


@dataclass(frozen=True)
class WeightConverter:
    """Tensors under keys that fit ``source_patterns`` become those under ``target_patterns``, and back.

    Patterns are dotted parts that may stand anywhere in a key, ``*`` for a number; what stands around them
    is kept. One to one, one to many or many to one. ``ValueError`` unless the operations lead from the one
    to the other: a ``*`` of the sources is merged, one of the targets split, several sources are joined,
    several targets cut from one.
    """

    source_patterns: str | Sequence[str]
    target_patterns: str | Sequence[str]
    operations: Sequence[Operation]

    def __post_init__(self) -> None:
        sources, targets = self.sources, self.targets
        if min(len(sources.patterns), len(targets.patterns)) > 1:
            raise ValueError(f"{self}: many to many; only one to one, one to many and many to one can be")
        if not self.operations:
            raise ValueError(f"{self}: without operations it is a WeightRenaming")
        wanted = {
            MergeModulelist: sources.numbered,
            SplitModulelist: targets.numbered,
            Concatenate: len(sources.patterns) > 1,
            Chunk: len(targets.patterns) > 1,
        }
        for kind, times in wanted.items():
            if sum(isinstance(operation, kind) for operation in self.operations) != times:
                raise ValueError(f"{self}: its patterns take {kind.__name__} {'once' if times else 'never'}")
        by_name = (isinstance(getattr(each, "heads", 0), Mapping) for each in self.operations)
        if len(self._several) == 1 and any(by_name):
            raise ValueError(f"{self}: with one pattern on either side, heads are a number or a field")

    @cached_property
    def sources(self) -> _Patterns:
        return _Patterns(self.source_patterns)

    @cached_property
    def targets(self) -> _Patterns:
        return _Patterns(self.target_patterns)

    @property
    def copies(self) -> bool:
        """Whether what ``convert`` gives is new; else it is all views of what it was given."""
        return any(operation.copies for operation in self.operations)

    @cached_property
    def reverse(self) -> WeightConverter:
        """From memory's layout to the files'."""
        operations = tuple(operation.reverse for operation in reversed(self.operations))
        return WeightConverter(self.target_patterns, self.source_patterns, operations)

    def convert(self, groups: Groups, config: Any) -> Groups:
        """The tensors of each target pattern from those of each source pattern, both ordered by number."""
        for operation in self.operations:
            groups = operation.apply(groups, self._several, config)
        return groups

    @property
    def _several(self) -> tuple[str, ...]:
        return max(self.targets.patterns, self.sources.patterns, key=len)
