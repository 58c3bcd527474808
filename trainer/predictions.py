"""What a model said of a data set: kept batch by batch, gathered over the ranks, put together at the end.

Values are nested: tensors with the rows in their first dimension, or tuples, lists and mappings of such.
Batches of different widths are padded with -100 in the second dimension. Names and shapes are the
reference's (internal/trainer_utils, main_classes/trainer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from conf.errors import ConfigError, DataError
from trainer.ranks.ranks import Ranks

PADDING = -100


@dataclass(frozen=True)
class EvalPrediction:
    """What ``compute_metrics`` is given; unpacks into ``predictions, label_ids`` and what else is there.

    ``inputs`` and ``losses`` are there when ``include_for_metrics`` asks for them; ``losses`` (rows,) holds
    for each row the loss of its batch.
    """

    predictions: Any
    label_ids: Any
    inputs: Any = None
    losses: Any = None

    @property
    def elements(self) -> tuple[Any, ...]:
        extra = (value for value in (self.inputs, self.losses) if value is not None)
        return (self.predictions, self.label_ids, *extra)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.elements)

    def __getitem__(self, index: int) -> Any:
        return self.elements[index]


class EvalLoopOutput(NamedTuple):
    """What an evaluation loop gives: nested arrays (rows, ...), or lists of them a batch each."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, Any]
    num_samples: int


class PredictionOutput(NamedTuple):
    """What ``Trainer.predict`` gives."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, Any]


class TrainOutput(NamedTuple):
    """What ``Trainer.train`` gives: steps done, the mean loss over them, and the run's other figures."""

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


class BestRun(NamedTuple):
    """The best trial of a search: its number, what was optimised, and the values that were tried."""

    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, Any]
    run_summary: Any = None


class Collected:
    """The values of each batch of a pass over this rank's data, in order.

    They stay on the device; every ``accumulation_steps`` batches, and at the end, they move to the host.
    ``objects`` allows leaves that are no tensors: a list is then taken as one object a row.
    """

    def __init__(self, *, accumulation_steps: int | None = None, objects: bool = False):
        self.accumulation_steps, self.objects = accumulation_steps, objects
        self._batches: list[dict[str, Any]] = []
        self._num_on_host = 0

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep what one batch gave, by name; ``None`` stands for what is not there in any batch."""
        self._batches.append(dict(values))
        if self.accumulation_steps and len(self._batches) % self.accumulation_steps == 0:
            self._move_to_host()

    def _move_to_host(self) -> None:
        for place in range(self._num_on_host, len(self._batches)):
            self._batches[place] = to_host(self._batches[place], objects=self.objects)
        self._num_on_host = len(self._batches)

    def gathered(self, ranks: Ranks, *, concat: bool = True) -> dict[str, Any]:
        """All ranks' values in the order of the data, on every rank; empty if no rank has a batch.

        A rank's batch number m is its share of micro-batch m, which the ranks cut in their order. Without
        ``concat`` each name has a list, one entry a micro-batch.
        """
        self._move_to_host()
        shares = ranks.gather(self._batches)
        rounds = [[part for part in parts if part is not None] for parts in zip_longest(*shares)]
        if not rounds:
            return {}
        if concat:
            return concatenated(list(chain.from_iterable(rounds)), objects=self.objects)
        whole = [concatenated(parts, objects=self.objects) for parts in rounds]
        return {
            name: None if whole[0][name] is None else [batch[name] for batch in whole] for name in whole[0]
        }


def gathered_round(
    values: Mapping[str, Any] | None, ranks: Ranks, *, objects: bool = False
) -> dict[str, Any]:
    """One micro-batch put together from every rank's share of it, as tensors on this rank's device.

    ``None`` comes from a rank that has no share; all ranks must call it together.
    """
    if ranks.world_size == 1:
        assert values is not None
        return dict(values)
    own = None if values is None else to_host(values, objects=objects)
    parts = [part for part in ranks.gather(own) if part is not None]
    return _nested(
        concatenated(parts, objects=objects),
        lambda leaf: torch.from_numpy(leaf).to(ranks.device) if isinstance(leaf, np.ndarray) else leaf,
    )


def to_host(value: Any, *, objects: bool = False) -> Any:
    """The same nesting with numpy arrays for tensors; bfloat16, which numpy lacks, becomes float32.

    Raises ``ConfigError`` for a leaf that is neither, unless ``objects`` are allowed.
    """

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            leaf = leaf.detach().cpu()
            return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
        if objects or leaf is None or isinstance(leaf, np.ndarray):
            return leaf
        raise ConfigError(
            f"evaluation.eval_use_gather_object: the predictions or labels hold a {type(leaf).__name__}; "
            "give tensors only, or set it to true."
        )

    return _nested(value, moved)


def _nested(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with every leaf changed."""
    if isinstance(value, Mapping):
        return {name: _nested(part, change) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = (_nested(part, change) for part in value)
        return tuple(parts) if isinstance(value, tuple) else list(parts)
    return change(value)


def concatenated(parts: Sequence[Any], *, objects: bool = False, name: str = "") -> Any:
    """Nested arrays of the same nesting, one after the other, padded with -100 in the second dimension.

    With ``objects`` lists are joined as they are, and leaves that are no arrays are listed.
    Raises ``DataError`` where the parts do not fit together.
    """
    first = parts[0]
    if any(_kind(part) is not _kind(first) for part in parts):
        kinds = sorted({"nothing" if part is None else type(part).__name__ for part in parts})
        raise DataError(f"{name or 'evaluation'}: some batches give {' and others '.join(kinds)}.")
    if first is None:
        return None
    if isinstance(first, Mapping):
        _same(name, [sorted(part) for part in parts], "names")
        return {
            key: concatenated(
                [part[key] for part in parts], objects=objects, name=f"{name}.{key}" if name else str(key)
            )
            for key in first
        }
    if objects and isinstance(first, list):
        return list(chain.from_iterable(parts))
    if isinstance(first, tuple | list):
        hint = "; if each list holds one object a row, set evaluation.eval_use_gather_object=true"
        _same(name, [len(part) for part in parts], "numbers of values", hint)
        columns = zip(*parts, strict=True)
        whole = [
            concatenated(column, objects=objects, name=f"{name}[{i}]") for i, column in enumerate(columns)
        ]
        return tuple(whole) if isinstance(first, tuple) else whole
    return _padded(parts, name) if isinstance(first, np.ndarray) else list(parts)


def _kind(value: Any) -> type:
    """What must be alike in all batches for their values to go together."""
    for kind in (Mapping, tuple, list, np.ndarray):
        if isinstance(value, kind):
            return kind
    return type(None) if value is None else object


def _same(name: str, given: Sequence[Any], what: str, hint: str = "") -> None:
    for other in given:
        if other != given[0]:
            raise DataError(
                f"{name or 'evaluation'}: batches give different {what}, {given[0]} and {other}{hint}."
            )


def _padded(arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Arrays (B, T, ...) of any widths T as one (rows, widest, ...)."""
    arrays = [np.atleast_1d(array) for array in arrays]
    for array in arrays:
        if array.ndim != arrays[0].ndim or array.shape[2:] != arrays[0].shape[2:]:
            raise DataError(
                f"{name}: batches of shapes {arrays[0].shape} and {array.shape} do not fit together; reduce "
                "them in preprocess_logits_for_metrics, or set evaluation.eval_do_concat_batches=false."
            )
    if arrays[0].ndim == 1 or len({array.shape[1] for array in arrays}) == 1:
        return np.concatenate(arrays)
    shape = (sum(map(len, arrays)), max(array.shape[1] for array in arrays), *arrays[0].shape[2:])
    whole = np.full(shape, PADDING, dtype=np.result_type(*arrays))
    row = 0
    for array in arrays:
        whole[row : row + len(array), : array.shape[1]] = array
        row += len(array)
    return whole
