"""What a program's data sets become: batches for the loop, and data loaders for whoever asks for them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from conf.errors import ConfigError
from trainer.build import loader_options
from trainer.data.batches import Batches, EvaluationBatches, Schedule
from trainer.data.datasets import (
    LABEL_COLUMNS,
    DatasetRows,
    columns_of,
    is_map_style,
    lengths_of,
    signature_columns,
    unused,
)
from trainer.data.iterables import IterableBatches, IterableEvaluationBatches
from trainer.data.loaders import LoaderBatches
from trainer.data.loading import SilentBatch
from trainer.data.sequential import length_of
from trainer.ranks.ranks import unwrap
from trainer.run import StepStream


class DataMethods:
    """Data loaders (reference: main_classes/trainer), and the streams that the loop takes."""

    model: Any
    args: Any
    config: Any
    ranks: Any
    data_collator: Any
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    label_names: list[str]

    get_total_train_batch_size: Any

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This process's batches of the first epoch, in the order of the training.

        An override's loader is what the loop trains on, epoch after epoch; this one the loop does without, as
        it goes to any step of any epoch by itself. Wrapped by an override it follows ``set_epoch``.
        """
        stream = self._own_stream()
        if isinstance(stream, Batches):
            return self._loader(self.train_dataset, stream.schedule, "train_dataset")
        return self._iterable_loader(_EpochOf(stream, self.train_dataset))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """This process's batches of a data set, or of the one of that name in ``eval_dataset``, in order."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ConfigError(
                "eval_dataset: an evaluation needs one; give it to the Trainer or to evaluate()."
            )
        return self._evaluation_loader(dataset, "eval_dataset")

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """This process's batches of a data set to predict on, in their order."""
        return self._evaluation_loader(test_dataset, "test_dataset")

    def num_examples(self, dataloader: Any) -> int:
        """How many rows the data set of a loader has; where it does not say, those of its batches."""
        dataset = getattr(dataloader, "dataset", None)
        rows = length_of(dataset.dataset if isinstance(dataset, _Batches | _EpochOf) else dataset)
        if rows is not None:
            return rows
        return len(dataloader) * self.config.training.per_device_train_batch_size

    @staticmethod
    def num_tokens(train_dl: Iterable[Any], max_steps: int | None = None) -> int:
        """The tokens of a loader's batches, or ``max_steps`` times those of its first."""
        sizes = (batch["input_ids"].numel() for batch in train_dl)
        return sum(sizes) if max_steps is None else next(sizes, 0) * max_steps

    def set_initial_training_values(
        self, args: Any, dataloader: Any, total_train_batch_size: int | None = None
    ) -> tuple[int, int, int, float, bool, int | None, int]:
        """How long a training over a loader is, by the arguments, as the reference counts it.

        (epochs, updates an epoch, rows, rows seen in all, whether epochs are counted, batches an epoch or
        None if the loader does not say, updates in all). Raises ``ConfigError`` where neither knows.
        """
        batches, steps = length_of(dataloader), args.max_steps
        seen = steps * (total_train_batch_size or self.get_total_train_batch_size(args))
        if batches is None and steps <= 0:
            raise ConfigError("max_steps: the loader has no known length; say how many steps to make.")
        if batches is None:
            return sys.maxsize, steps, seen, seen, False, None, steps
        updates, rows = max(1, -(-batches // args.gradient_accumulation_steps)), self.num_examples(dataloader)
        if steps > 0:
            return -(-steps // updates), updates, rows, seen, False, batches, steps
        epochs = args.num_train_epochs
        return (
            math.ceil(epochs),
            updates,
            rows,
            rows * epochs,
            True,
            batches,
            math.ceil(epochs * updates),
        )

    # -- what the loop takes -------------------------------------------------------------------------

    def _train_stream(self) -> StepStream:
        """The steps of the training: over the program's data set, or over the loader of an override."""
        if type(self).get_train_dataloader is not DataMethods.get_train_dataloader:
            loader, accumulation = (
                self.get_train_dataloader(),
                self.config.training.gradient_accumulation_steps,
            )
            return LoaderBatches(loader, accumulation, seed=self.config.training.order_seed)
        return self._own_stream()

    def _own_stream(self) -> Batches | IterableBatches:
        """The steps over ``train_dataset``."""
        training, data, dataset = self.config.training, self.config.data, self.train_dataset
        if dataset is None:
            raise ConfigError("train_dataset: a training needs one; give it to the Trainer.")
        options: dict[str, Any] = {
            "seed": self.config.training.order_seed,
            "per_device_batch_size": training.per_device_train_batch_size,
            "accumulation": training.gradient_accumulation_steps,
            "rank": self.ranks.rank,
            "world_size": self.ranks.world_size,
            "drop_last": data.dataloader_drop_last,
            "silence": SilentBatch,
            "persistent_workers": data.dataloader_persistent_workers,
            **loader_options(self.config, self.ranks),
        }
        keep = self._kept_columns(dataset)
        if not is_map_style(dataset):
            if data.groups_by_length:
                raise ConfigError(
                    "group_by_length: the lengths of an iterable data set are not known; leave it out."
                )
            return IterableBatches(dataset, self.data_collator, keep=keep, **options)
        lengths = lengths_of(dataset, data.length_column_name) if data.groups_by_length else None
        rows = DatasetRows(dataset, keep=keep)
        return Batches(rows, self.data_collator, shuffle=data.shuffle, lengths=lengths, **options)

    def _ordered_batches(self, dataset: Any, name: str, size: int) -> Any:
        """This rank's batches of up to ``size`` rows of a data set, once, in its order."""
        keep = self._kept_columns(dataset)
        options: dict[str, Any] = {
            "per_device_batch_size": size,
            "rank": self.ranks.rank,
            "world_size": self.ranks.world_size,
            **loader_options(self.config, self.ranks),
        }
        if not is_map_style(dataset):
            return IterableEvaluationBatches(dataset, self.data_collator, keep=keep, name=name, **options)
        return EvaluationBatches(DatasetRows(dataset, keep=keep, name=name), self.data_collator, **options)

    def _kept_columns(self, dataset: Any) -> list[str] | None:
        """The columns that the model's forward takes, or all."""
        if not self.config.data.remove_unused_columns:
            return None
        forward = signature_columns(unwrap(self.model))
        columns = columns_of(dataset)
        if columns is None:  # what the rows have is known only when they are read
            return [*forward, *LABEL_COLUMNS, *self.label_names]
        dropped = unused(columns, forward, self.label_names)
        return [name for name in columns if name not in dropped]

    # -- loaders for programs ------------------------------------------------------------------------

    def _evaluation_loader(self, dataset: Any, name: str) -> DataLoader[Any]:
        size = self.config.evaluation.per_device_eval_batch_size
        batches = self._ordered_batches(dataset, name, size)
        if isinstance(batches, EvaluationBatches):
            return self._loader(dataset, batches.schedule, name)
        return self._iterable_loader(_Batches(batches, dataset))

    def _loader(self, dataset: Any, schedule: Schedule, name: str) -> DataLoader[Any]:
        """A torch loader over one epoch of a schedule: the shares of this rank."""
        rows = DatasetRows(dataset, keep=self._kept_columns(dataset), name=name)
        return DataLoader(
            _Rows(rows, dataset),
            batch_sampler=_Shares(schedule),
            collate_fn=self.data_collator,
            generator=torch.Generator(),  # it draws a seed each time: not from the training's own generator
            **self._torch_loading(),
        )

    def _iterable_loader(self, batches: torch.utils.data.IterableDataset[Any]) -> DataLoader[Any]:
        """A torch loader over ready batches of a data set without numbered rows."""
        pin_memory = loader_options(self.config, self.ranks)["pin_memory"]
        return DataLoader(batches, batch_size=None, pin_memory=pin_memory, generator=torch.Generator())

    def _torch_loading(self) -> dict[str, Any]:
        loading = loader_options(self.config, self.ranks)
        if not loading["num_workers"]:
            del loading["prefetch_factor"]
        return loading


class _Rows(Dataset[Any]):
    """A data set's rows with the columns that are kept; ``dataset`` and its length are the program's."""

    def __init__(self, rows: DatasetRows, dataset: Any):
        self.rows, self.dataset = rows, dataset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        (found,) = self.rows.documents(row)
        return found


class _Shares:
    """The rows of each of this rank's micro-batches in one epoch, as torch's loader takes them."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        steps = range(epoch * self.schedule.steps_per_epoch, (epoch + 1) * self.schedule.steps_per_epoch)
        shares = (share for step in steps for share in self.schedule.shares(step))
        self.batches = [share.rows for share in shares if not share.silent]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class _Batches(torch.utils.data.IterableDataset[Any]):
    """One pass over ready batches, as torch's loader iterates them."""

    def __init__(self, batches: Iterable[Any], dataset: Any):
        self.batches, self.dataset = batches, dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class _EpochOf(torch.utils.data.IterableDataset[Any]):
    """The batches of one epoch of a stream, as torch's loader iterates them."""

    def __init__(self, stream: IterableBatches, dataset: Any):
        self.stream, self.dataset, self.epoch = stream, dataset, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        stream = self.stream
        beginning = {"cursor": {"epoch": self.epoch, "used": 0}, "is_epoch_end": False}
        stream.load_state_dict({**stream.state_dict(), **beginning})
        while not stream.is_epoch_end:
            yield from (batch for batch in next(stream) if not isinstance(batch, SilentBatch))


def num_rows_of(dataset: Any) -> int:
    """The rows of a data set, or of a dict of several; 0 of those that do not know."""
    if isinstance(dataset, Mapping):
        return sum(map(num_rows_of, dataset.values()))
    return length_of(dataset) or 0
