"""Streams of optimizer steps over what can only be read from the front: what they have in common.

A plan gives the steps that follow a cursor (a position in the data); the stream remembers the cursor after
the step it gave out last. ``streaming``, ``iterables`` and ``loaders`` are such streams.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice, repeat
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from conf.errors import CheckpointError, ConfigError, DataError, StockpotError
from trainer.data.loading import Loading, MicroBatch, load, seeded
from trainer.data.order import key

Item = TypeVar("Item")
Cursor = TypeVar("Cursor", bound="EpochCursor")


@dataclass(frozen=True, kw_only=True)
class EpochCursor:
    """A position in the data, of JSON-able values: at the least its epoch."""

    epoch: int


class SequentialStep(NamedTuple, Generic[Cursor]):
    """One rank's part of a step, and the position after it."""

    micro_batches: list[MicroBatch]
    places: list[str]
    after: Cursor
    is_epoch_end: bool


class Plan(Protocol[Cursor]):
    """The steps from any position on; the part of a stream that its worker process holds."""

    def beginning(self, epoch: int) -> Cursor: ...
    def cursor(self, saved: dict[str, Any]) -> Cursor: ...
    def steps(self, cursor: Cursor) -> Iterator[SequentialStep[Cursor]]: ...
    def refuse_other_data(self, state: dict[str, Any]) -> None: ...
    def resplit(self, per_device_batch_size: int, accumulation: int) -> None: ...

    @property
    def items_per_step(self) -> int: ...


class Ahead(Generic[Cursor]):
    """The steps from a position on, one after the other whatever is asked for: for a single worker.

    With ``one_epoch`` nothing is read after the end of the epoch; who asks on gets None. A data set does not
    see that it is read in a worker: this one reads everything, and some data sets (those of the ``datasets``
    library) would give a worker another order.
    """

    def __init__(self, plan: Plan[Cursor], start: Cursor, *, one_epoch: bool):
        self.plan, self.start, self.one_epoch = plan, start, one_epoch
        self._steps: Iterator[SequentialStep[Cursor]] | None = None
        self._ended = False

    def __getitem__(self, what: None) -> SequentialStep[Cursor] | None:
        if self._ended:
            return None
        if self._steps is None:
            from torch.utils.data._utils import worker

            worker._worker_info = None
            self._steps = self.plan.steps(self.start)
        step = next(self._steps)
        self._ended = self.one_epoch and step.is_epoch_end
        return step


class SequentialBatches(Generic[Cursor]):
    """An endless stream of optimizer steps, epoch after epoch, like ``Batches`` for data without numbers.

    ``next()`` gives this rank's micro-batches of one step; a step never crosses an epoch's end. One worker
    process at most reads ahead. ``step`` counts the steps given out.
    """

    steps_per_epoch: int | None = None

    def __init__(self, plan: Plan[Cursor], loading: Loading):
        """Raises ConfigError for more than one worker."""
        refuse_workers(loading.num_workers)
        self._plan, self._loading = plan, loading
        self._loaded: Generator[SequentialStep[Cursor], None, None] | None = None
        self.step = 0
        self.is_epoch_end = False
        self._cursor = plan.beginning(0)
        self._before: tuple[Cursor, bool] | None = None
        self._places: list[str] = []

    @property
    def epoch(self) -> float:
        """Whole epochs done."""
        return float(self._cursor.epoch)

    def __iter__(self) -> SequentialBatches[Cursor]:
        return self

    def __next__(self) -> list[MicroBatch]:
        endless = self._loading.crosses_epochs
        if self._loaded is None:
            ahead = Ahead(self._plan, self._cursor, one_epoch=not endless)
            self._loaded = load(ahead, repeat(None), self._loading)
        made = next(self._loaded)
        self._before = self._cursor, self.is_epoch_end
        micro_batches, self._places, self._cursor, self.is_epoch_end = made
        self.step += 1
        if self.is_epoch_end and not endless:
            self.close()
        return micro_batches

    def skip_epoch(self) -> None:
        """Leave out what is left of the epoch under way."""
        self.close()
        if not self.is_epoch_end:
            self._cursor, self.is_epoch_end = self._plan.beginning(self._cursor.epoch + 1), True

    def step_back(self) -> None:
        """Give the step that was given out last once more; its data are read again."""
        assert self._before is not None, "no step was given out since the last one was taken back"
        self.close()
        (self._cursor, self.is_epoch_end), self._before = self._before, None
        self.step -= 1

    def resplit(self, per_device_batch_size: int, accumulation: int) -> None:
        """Give the same rows of a step in micro-batches of another size from the next step on."""
        self.close()
        self._plan.resplit(per_device_batch_size, accumulation)

    def places(self) -> list[str]:
        """Where the rows of the last step on this rank came from."""
        return self._places

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON-able and the same on every rank."""
        return {
            "step": self.step,
            "is_epoch_end": self.is_epoch_end,
            "items_per_step": self._plan.items_per_step,
            "cursor": asdict(self._cursor),
        }

    def load_state_dict(self, state: dict[str, Any], *, skip: bool = True) -> None:
        """Go to a position. CheckpointError if it is one of other data.

        Without ``skip`` go to the start of its epoch, whose data are then all seen (``ignore_data_skip``).
        """
        self._plan.refuse_other_data(state)
        self.close()
        self.step, self._before = state["step"], None
        self._cursor, self.is_epoch_end = self._plan.cursor(state["cursor"]), state["is_epoch_end"]
        if not skip:
            self._cursor, self.is_epoch_end = self._plan.beginning(self._cursor.epoch), self.step > 0

    def close(self) -> None:
        """Stop the worker process; the next step starts it again."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


@dataclass(frozen=True, kw_only=True)
class Passed(EpochCursor):
    """How many items of an epoch were used."""

    used: int = 0


class EpochPlan(ABC, Generic[Item]):
    """Steps over the items that each epoch gives from its first one on, and cannot be entered in the middle.

    What is drawn from the global random generators as the items of a step are read is a function of (seed,
    epoch, step), and as its micro-batches are made of (seed, epoch, step, rank): a user's data stay the same
    when they are read again to be skipped, and on every rank.
    """

    def __init__(
        self,
        *,
        name: str,
        units: tuple[str, str],
        items_per_step: int,
        seed: int,
        drop_last: bool = False,
        rank: int = 0,
    ):
        """``name`` and ``units`` say what is read: ``train_dataset`` and (``sample``, ``samples``)."""
        self.name, self.items_per_step = name, items_per_step
        self.unit, self.units = units
        self.seed, self.drop_last, self.rank = seed, drop_last, rank

    @abstractmethod
    def items(self, epoch: int) -> Iterator[Item]:
        """Everything an epoch has, in its order."""

    @abstractmethod
    def make(self, items: list[Item], epoch: int, first: int) -> tuple[list[MicroBatch], list[str]]:
        """This rank's micro-batches of a step whose first item has this number, and their places."""

    def beginning(self, epoch: int) -> Passed:
        return Passed(epoch=epoch)

    def cursor(self, saved: dict[str, Any]) -> Passed:
        return Passed(**saved)

    def refuse_other_data(self, state: dict[str, Any]) -> None:
        saved, now = state["items_per_step"], self.items_per_step
        if saved != now:
            raise CheckpointError(
                f"the data position was saved with {saved} {self.units} a step and there are {now} now; "
                "continue with the same global batch size, or start a new run."
            )

    @abstractmethod
    def resplit(self, per_device_batch_size: int, accumulation: int) -> None:
        """Divide the same steps into micro-batches of another size."""

    def steps(self, cursor: Passed) -> Iterator[SequentialStep[Passed]]:
        """Every step after a position, epoch after epoch; what was used of its epoch is read and left."""
        while True:
            found = False
            for (number, items), last in with_last(self._read(cursor.epoch)):
                first = number * self.items_per_step
                if first < cursor.used:
                    continue
                after = Passed(epoch=cursor.epoch, used=first + len(items))
                after = self.beginning(cursor.epoch + 1) if last else after
                with seeded(key(self.seed, cursor.epoch, "make", number, self.rank)):
                    micro_batches, places = self.make(items, cursor.epoch, first)
                yield SequentialStep(micro_batches, places, after, last)
                found = True
            if not found:
                raise DataError(f"{self.name}: {self._shortage(cursor)}")
            cursor = self.beginning(cursor.epoch + 1)

    def _read(self, epoch: int) -> Iterator[tuple[int, list[Item]]]:
        """The items of each step of an epoch, with its number."""
        items: Iterator[Item] | None = None
        for number in count():
            with seeded(key(self.seed, epoch, "read", number)):
                items = self.items(epoch) if items is None else items
                read = list(islice(items, self.items_per_step))
            if len(read) < (self.items_per_step if self.drop_last else 1):
                return
            yield number, read

    def _shortage(self, cursor: Passed) -> str:
        if cursor.used:
            return (
                f"epoch {cursor.epoch} ended before its {self.unit} {cursor.used}, up to where it was used "
                "when the run was saved; continue with the same data, or start a new run."
            )
        if self.drop_last:
            return (
                f"epoch {cursor.epoch} does not fill one step of {self.items_per_step}, and an incomplete "
                "last step is dropped; use more data, a smaller batch, or keep the last step."
            )
        return (
            f"there was not one {self.unit} in epoch {cursor.epoch}; it must hold some, and give them anew "
            "each time it is iterated."
        )


class EpochBatches(SequentialBatches[Passed]):
    """The stream of an ``EpochPlan``.

    With data that know their length ``steps_per_epoch`` is known and ``epoch`` has a fraction.
    """

    def __init__(self, plan: EpochPlan[Any], length: int | None, loading: Loading):
        """``length``: the items of an epoch. Raises ConfigError for more than one worker."""
        super().__init__(plan, loading)
        self._name, self._units, self._items_per_step = plan.name, plan.units, plan.items_per_step
        if length is not None:
            whole, rest = divmod(length, plan.items_per_step)
            self.steps_per_epoch = whole + (rest > 0 and not plan.drop_last)

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the one under way if it is known."""
        if not self.steps_per_epoch:
            return float(self._cursor.epoch)
        fraction = self._cursor.used / (self.steps_per_epoch * self._items_per_step)
        return self._cursor.epoch + min(fraction, 1.0)

    @property
    def resume_note(self) -> str | None:
        """What going on from here costs, in a sentence; None at the start of an epoch."""
        if not self._cursor.used:
            return None
        return (
            f"{self._name} cannot be entered in the middle: {self._cursor.used} {self._units} of epoch "
            f"{self._cursor.epoch} are read again and skipped."
        )


def begin_epoch(data: Any, seed: int, epoch: int) -> None:
    """Tell a user's data which epoch comes: by ``set_epoch``, else by seeding their ``generator``.

    A torch generator in the attribute ``generator`` gets seed + epoch. Source: the reference's contract for
    iterable data sets (main_classes/trainer).
    """
    import torch

    if callable(getattr(data, "set_epoch", None)):
        data.set_epoch(epoch)
    elif isinstance(generator := getattr(data, "generator", None), torch.Generator):
        generator.manual_seed(seed + epoch)


def refuse_workers(num_workers: int) -> None:
    """ConfigError for more workers than one: what is read from the front is read by one process."""
    if num_workers > 1:
        raise ConfigError(f"{num_workers} loader workers cannot share one stream of rows; use 0 or 1.")


def with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last; an error of ours comes after what was read before it."""
    ahead, end = iter(items), object()
    item: Any = next(ahead, end)
    while item is not end:
        error: StockpotError | None = None
        following: Any = None
        try:
            following = next(ahead, end)
        except StockpotError as raised:
            error = raised
        yield item, following is end
        if error is not None:
            raise error
        item = following


def length_of(data: Any) -> int | None:
    """``len(data)``, or None for data that do not know it."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None
