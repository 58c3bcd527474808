"""Weights seen in another layout than they are kept in: tensors under converted keys, made when asked for.

Reading is a view of files through a family's ``CONVERTERS``, writing one of the model through their reverses.
*Keys* are those that a view shows, *originals* those of what it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from conf.errors import CheckpointError
from models.weights.conversion import Groups, Match, WeightConverter, WeightRenaming
from models.weights.safetensors import Deferred, Writable
from models.weights.sources import GivenTensors, Source

Transform = WeightRenaming | WeightConverter


def as_in_memory(source: Source, transforms: Sequence[Transform], config: Any = None) -> Converted:
    """Files as a model wants them: all renamings that fit, in their order, then at most one converter.

    What fits none is shown as it is, so that files may be in memory's layout already. ``config`` is what
    operations ask for numbers of heads.
    """
    return Converted(source, _converters(transforms), config, before=_renamings(transforms))


def as_in_files(source: Source, transforms: Sequence[Transform], config: Any = None) -> Converted:
    """A model's tensors as its files hold them; undoes ``as_in_memory``."""
    back = [each.reverse for each in reversed(transforms)]
    return Converted(source, _converters(back), config, after=_renamings(back))


def original_layout(
    named_tensors: Iterable[tuple[str, Tensor]], transforms: Sequence[Transform], config: Any = None
) -> Iterator[tuple[str, Writable]]:
    """(key, tensor) pairs in the files' layout; views of the given tensors where possible, else deferred."""
    view = as_in_files(GivenTensors(dict(named_tensors), "the model"), transforms, config)
    return ((key, view.writable(key)) for key in view.keys())  # noqa: SIM118


def _renamings(transforms: Iterable[Transform]) -> list[WeightRenaming]:
    return [each for each in transforms if isinstance(each, WeightRenaming)]


def _converters(transforms: Iterable[Transform]) -> list[WeightConverter]:
    return [each for each in transforms if isinstance(each, WeightConverter)]


def _renamed(key: str, renamings: Iterable[WeightRenaming]) -> str:
    for renaming in renamings:
        key = renaming.rename(key)
    return key


@dataclass(eq=False)
class _Conversion:
    """One use of a converter: what stands around its patterns, and its originals, by pattern and number."""

    converter: WeightConverter
    before: str
    after: str
    originals: list[dict[int, str]]

    def source(self, pattern: int, number: int) -> str:
        return self.converter.sources.key(Match(pattern, self.before, number, self.after))

    def target(self, pattern: int, number: int) -> str:
        return self.converter.targets.key(Match(pattern, self.before, number, self.after))


@dataclass(frozen=True)
class _Place:
    """Where a key's tensor is among the results of a conversion that gives ``counts`` of each pattern."""

    conversion: _Conversion
    pattern: int
    number: int
    count: int


class Converted:
    """A ``Source`` that shows another one converted; see ``as_in_memory`` and ``as_in_files``.

    Only one conversion at a time has tensors of its own, and a merge has none where it is read into the
    merged tensor: each part goes where it belongs.
    """

    def __init__(
        self,
        source: Source,
        converters: Sequence[WeightConverter],
        config: Any,
        *,
        before: Sequence[WeightRenaming] = (),
        after: Sequence[WeightRenaming] = (),
    ):
        self.where, self._source, self._config = source.where, source, config
        self._back = [renaming.reverse for renaming in reversed(before)]
        self._lock = Lock()
        self._latest: tuple[_Conversion, Groups] | None = None
        self._places: dict[str, str | _Place] = {}
        for found in self._matched(converters, before):
            if isinstance(found, _Conversion):
                self._places |= {_renamed(key, after): place for key, place in self._targets(found)}
            else:
                self._places.setdefault(_renamed(_renamed(found, before), after), found)

    def _matched(
        self, converters: Sequence[WeightConverter], before: Sequence[WeightRenaming]
    ) -> list[str | _Conversion]:
        """Originals that no converter fits, and the conversions of the others, in the originals' order."""
        conversions: dict[tuple[int, str, str], _Conversion] = {}
        order: dict[str | _Conversion, None] = {}
        for original in self._source.keys():  # noqa: SIM118
            key = _renamed(original, before)
            fitting = ((i, each, each.sources.match(key)) for i, each in enumerate(converters))
            index, converter, match = next((fit for fit in fitting if fit[2]), (0, None, None))
            if converter is None or match is None:
                order[original] = None
                continue
            empty: list[dict[int, str]] = [{} for _ in converter.sources.patterns]
            made = _Conversion(converter, match.before, match.after, empty)
            conversion = conversions.setdefault((index, match.before, match.after), made)
            conversion.originals[match.pattern][match.number] = original
            order[conversion] = None
        return list(order)

    def _targets(self, conversion: _Conversion) -> Iterator[tuple[str, _Place]]:
        targets = conversion.converter.targets
        count = len(self._sketches(conversion)[0]) if targets.numbered else 1
        for pattern in range(len(targets.patterns)):
            for number in range(count):
                yield conversion.target(pattern, number), _Place(conversion, pattern, number, count)

    def keys(self) -> list[str]:
        """Every key, converted; those of conversions that lack originals included."""
        return list(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def shape(self, key: str) -> torch.Size:
        """The shape after conversion; ``CheckpointError`` if originals are missing or do not go together."""
        return self._sketch(key).shape

    def dtype(self, key: str) -> torch.dtype:
        """The dtype after conversion."""
        return self._sketch(key).dtype

    def originals(self, key: str, shape: torch.Size) -> dict[str, torch.Size]:
        """Which originals, of which shapes, make a tensor of this shape; also those that the source lacks."""
        place = self._places[key]
        if isinstance(place, str):
            return {place: shape}
        conversion = place.conversion
        sketch = torch.empty(shape, device="meta")
        wanted = [[sketch] * place.count for _ in conversion.converter.targets.patterns]
        made = conversion.converter.reverse.convert(wanted, self._config)
        return {
            self._original(conversion, pattern, number): tensor.shape
            for pattern, group in enumerate(made)
            for number, tensor in enumerate(group)
        }

    def get(self, key: str) -> Tensor:
        """The tensor, not to be written to; ``CheckpointError`` as by ``shape``, and if it cannot be read."""
        place = self._places[key]
        if isinstance(place, str):
            return self._source.get(place)
        with self._lock:
            return self._made(place)

    def reads(self, key: str, out: Tensor) -> Iterator[Callable[[], object]]:
        """Calls that fill ``out``, a tensor of that shape, in any order and by any threads."""
        place, out = self._places[key], out.detach()
        if isinstance(place, str):
            yield from self._source.reads(place, out)
            return
        back = place.conversion.converter.reverse
        if back.copies:
            yield partial(self._convert_into, place, out)
            return
        for pattern, group in enumerate(back.convert([[out]], self._config)):
            for number, part in enumerate(group):
                yield from self._source.reads(self._original(place.conversion, pattern, number), part)

    def writable(self, key: str) -> Writable:
        """The tensor to be written: a view of the source's, or one that is made when its turn comes."""
        place = self._places[key]
        if isinstance(place, str) or not place.conversion.converter.copies:
            return self.get(key)
        sketch = self._sketch(key)
        return Deferred(shape=sketch.shape, dtype=sketch.dtype, make=partial(self.get, key))

    def _convert_into(self, place: _Place, out: Tensor) -> None:
        with self._lock:
            out.copy_(self._made(place))

    def _made(self, place: _Place) -> Tensor:
        """A result of a conversion; those of the latest one are kept while they are asked for in turn."""
        conversion = place.conversion
        if self._latest is None or self._latest[0] is not conversion:
            self._latest = None  # makes room first
            self._latest = conversion, self._converted(conversion, self._source.get)
        groups = self._latest[1]
        if sum(map(len, groups)) == 1:
            self._latest = None
        return groups[place.pattern][place.number]

    def _sketch(self, key: str) -> Tensor:
        """A tensor of that shape and type, without memory."""
        place = self._places[key]
        if isinstance(place, str):
            return self._empty(place)
        return self._sketches(place.conversion)[place.pattern][place.number]

    def _sketches(self, conversion: _Conversion) -> Groups:
        return self._converted(conversion, self._empty)

    def _empty(self, original: str) -> Tensor:
        return torch.empty(self._source.shape(original), dtype=self._source.dtype(original), device="meta")

    def _converted(self, conversion: _Conversion, get: Callable[[str], Tensor]) -> Groups:
        """All results of a conversion, from its originals by number: 9 before 10."""
        highest = max(max(group, default=0) for group in conversion.originals)
        groups: Groups = []
        for pattern in range(len(conversion.originals)):
            keys = [self._original(conversion, pattern, number) for number in range(highest + 1)]
            absent = [key for key in keys if key not in self._source]
            if absent:
                raise CheckpointError(f"{self.where} lacks {absent[0]}, which others are converted with.")
            groups.append([get(key) for key in keys])
        try:
            return conversion.converter.convert(groups, self._config)
        except (ValueError, RuntimeError) as error:
            first = next(iter(next(filter(None, conversion.originals)).values()))
            raise CheckpointError(f"{self.where}: {first} cannot be converted: {error}.") from error

    def _original(self, conversion: _Conversion, pattern: int, number: int) -> str:
        """An original's key, whether the source has it or not."""
        key = _renamed(conversion.source(pattern, number), self._back)
        return conversion.originals[pattern].get(number, key)
