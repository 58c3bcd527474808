"""A user's own map-style data set: its rows as the streams take them, its columns, its lengths.

Any data set with numbered rows will do, a torch ``Dataset``, a ``datasets.Dataset``, a list of dicts. Which
of its columns are kept follows from the arguments of the model's forward. Source: ``remove_unused_columns``,
``label_names`` and ``length_column_name`` of the reference (main_classes/trainer).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from conf.errors import ConfigError, DataError, StockpotError

LABEL_COLUMNS = ("label", "label_ids")  # what the default collator makes ``labels`` of
ANSWER_SPANS = ("start_positions", "end_positions")


class DatasetRows:
    """The rows of a map-style data set, each one document, as ``Batches`` reads them.

    ``keep`` names the columns that are passed on, None passes all. ``name`` is what errors call the data set.
    """

    foreign: ClassVar[bool] = True

    def __init__(
        self, dataset: Any, *, keep: Collection[str] | None = None, name: str = "train_dataset"
    ) -> None:
        """Raises ConfigError for what has no numbered rows."""
        if not is_map_style(dataset):
            raise ConfigError(
                f"{name}: a {type(dataset).__name__} was given; give a data set with __len__ and "
                "__getitem__, or an IterableDataset."
            )
        self.dataset, self.keep, self.name = dataset, keep, name
        if keep is not None and hasattr(dataset, "select_columns"):  # others need not be decoded then
            self.dataset = dataset.select_columns([c for c in dataset.column_names if c in keep])

    def __len__(self) -> int:
        return len(self.dataset)

    def documents(self, row: int) -> list[Mapping[str, Any]]:
        """The row, as a list of one; DataError naming it if it cannot be read or is no mapping."""
        (place,) = self.places(row)
        try:
            found = self.dataset[row]
        except StockpotError:
            raise
        except Exception as error:
            raise unreadable(place, error) from error
        return [kept(found, self.keep, place)]

    def numbers(self, row: int) -> list[int]:
        """The number of the row, by which random collators are keyed."""
        return [row]

    def places(self, row: int) -> list[str]:
        """The row's name, such as ``train_dataset[17]``."""
        return [f"{self.name}[{row}]"]


def kept(row: Any, keep: Collection[str] | None, place: str) -> Mapping[str, Any]:
    """The columns of a row that are to be passed on; DataError if it is no mapping of columns."""
    if not isinstance(row, Mapping):
        raise DataError(
            f"{place}: a row is a mapping of column names to values, and a {type(row).__name__} was given; "
            "let the data set return dicts."
        )
    return row if keep is None else {name: value for name, value in row.items() if name in keep}


def unreadable(place: str, error: Exception) -> DataError:
    """The error for a row whose reading raised another, on one line."""
    said = " ".join(str(error).split())
    return DataError(f"{place}: reading it raised {type(error).__name__}: {said or 'no message'}")


def is_map_style(dataset: Any) -> bool:
    """Whether rows can be had by number, and how many there are."""
    from torch.utils.data import IterableDataset

    has_both = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    return has_both and not isinstance(dataset, IterableDataset | Mapping | str)


def columns_of(dataset: Any) -> list[str] | None:
    """The names of a data set's columns, by its own word or its first row's; None where neither says."""
    if hasattr(dataset, "column_names"):
        names = dataset.column_names
        return None if names is None else list(names)
    if not is_map_style(dataset) or not len(dataset):
        return None
    first = dataset[0]
    return list(first) if isinstance(first, Mapping) else None


def signature_columns(model: Any) -> set[str]:
    """The columns that a model's forward takes by name; ``model`` without any wrapper around it.

    Of a model with a ``backbone`` they are the backbone's and its head's ``inputs``. ``**kwargs`` stand for
    no column, as in the reference.
    """
    return set(_arguments(model))


def find_labels(model: Any) -> list[str]:
    """The default ``label_names`` of a model: its forward's label arguments, an answer's start and end."""
    return [name for name in _arguments(model) if "label" in name or name in ANSWER_SPANS]


def _arguments(model: Any) -> list[str]:
    inside = getattr(model, "backbone", model)
    parameters = inspect.signature(inside.forward).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if inside is model:
        return named
    return [*named, *getattr(getattr(model, "head", None), "inputs", ())]


def unused(columns: Sequence[str], forward: Collection[str], label_names: Collection[str] = ()) -> list[str]:
    """The columns that ``remove_unused_columns`` takes out: neither arguments of the forward nor labels.

    Raises ConfigError if no column would be left.
    """
    accepted = {*forward, *LABEL_COLUMNS, *label_names}
    out = [name for name in columns if name not in accepted]
    if len(out) == len(columns):
        raise ConfigError(
            f"data.remove_unused_columns: none of the columns ({', '.join(columns)}) is an argument of the "
            f"model's forward ({', '.join(sorted(forward))}) or a label; rename the columns, or set it to "
            "false for a collator that uses them."
        )
    return out


def lengths_of(dataset: Any, length_column_name: str = "length", *, inputs: str = "input_ids") -> np.ndarray:
    """The length of each row of a map-style data set for ``group_by_length``, (rows,) int64.

    From its column of that name, else the lengths of ``inputs``. Raises ConfigError if it has neither.
    """
    columns = columns_of(dataset) or []
    column = length_column_name if length_column_name in columns else inputs
    if column not in columns:
        raise ConfigError(
            f"data.group_by_length: the data set has neither a column {length_column_name} nor {inputs}, "
            f"only ({', '.join(columns)}); name the one that holds lengths in data.length_column_name."
        )
    if hasattr(dataset, "column_names"):
        values = dataset[column]
    else:
        values = (dataset[row][column] for row in range(len(dataset)))
    sizes = values if column == length_column_name else map(len, values)
    return np.fromiter((int(size) for size in sizes), dtype=np.int64, count=len(dataset))
