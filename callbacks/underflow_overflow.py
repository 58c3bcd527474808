"""Where a number is first not finite, and the smallest and largest values of the modules before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.errors import ConfigError, NonFiniteError, StockpotError
from trainer.state import TrainerCallback, TrainerControl, TrainerState

_INDENT = " " * 17
_HEADER = f"{'abs min':8} {'abs max':8} metadata"


@dataclass(kw_only=True)
class UnderflowOverflowCallback(TrainerCallback):
    """Watches every module of the model while it trains, as ``DebugUnderflowOverflow`` does.

    A training with it is slow: each weight, input and output is looked at in each forward pass, those of
    evaluations too. A batch is a forward pass of the model, the first one is 0.
    """

    max_frames_to_save: int = 21
    trace_batch_nums: tuple[int, ...] = ()
    abort_after_batch_num: int | None = None

    def __post_init__(self) -> None:
        if self.max_frames_to_save < 1:
            given = self.max_frames_to_save
            raise ValueError(f"max_frames_to_save: at least 1 is wanted, {given} was given.")
        self._watch: DebugUnderflowOverflow | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.torch_compile:
            raise ConfigError(
                "callbacks.underflow_overflow: a compiled model does not tell what its modules return; leave "
                "training.torch_compile out."
            )
        self._watch = DebugUnderflowOverflow(
            kwargs["model"], self.max_frames_to_save, self.trace_batch_nums, self.abort_after_batch_num
        )

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Watch no longer."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class DebugUnderflowOverflow:
    """Looks at the weights, inputs and outputs of every module of ``model`` in each forward pass.

    Without ``trace_batch_nums``: at the first NaN or infinity it prints the last ``max_frames_to_save``
    frames, a module each, with the smallest and largest absolute values, and raises ``NonFiniteError``. The
    frames before the last show where numbers began to grow. With it: prints the frames of those batches and
    does not look for such numbers in them. A batch is a forward pass of ``model``, counted from 0; after
    ``abort_after_batch_num`` it raises ``StockpotError``. ``close()`` ends it. Reference page
    internal/trainer_utils.
    """

    def __init__(
        self,
        model: Any,
        max_frames_to_save: int = 21,
        trace_batch_nums: Sequence[int] = (),
        abort_after_batch_num: int | None = None,
    ):
        self.model = model
        self.trace_batch_nums, self.abort_after_batch_num = trace_batch_nums, abort_after_batch_num
        self.batch_number = 0
        self.frames: deque[str] = deque(maxlen=max_frames_to_save)
        self.module_names = {module: name for name, module in model.named_modules()}
        self._heading = True  # whether the next frame is the first of its batch
        self._hooks = [
            module.register_forward_hook(self._look, with_kwargs=True) for module in self.module_names
        ]

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _look(self, module: Any, inputs: Any, named: Mapping[str, Any], output: Any) -> None:
        """A forward hook: a module is looked at when it is done, and so the model itself is the last."""
        values = [*_values(module, inputs, named, output)]
        frame = [f"{_INDENT} {self.module_names[module]} {type(module).__name__}"]
        frame += [f"{_extremes(value)} {what}" for what, value in values]
        if self._heading:
            start = f"{_INDENT} *** Starting batch number={self.batch_number} ***"
            frame = ["", "", start, _HEADER, *frame]
        batch, self._heading = self.batch_number, module is self.model
        if batch in self.trace_batch_nums:
            print("\n".join(frame))
        else:
            self.frames.append("\n".join(frame))
            bad = [(what, kind) for what, value in values for kind in _not_finite(value)]
            if bad:
                self._report(batch, module, bad)
        if module is self.model:
            self.batch_number += 1
            if self.abort_after_batch_num is not None and batch >= self.abort_after_batch_num:
                raise StockpotError(
                    f"underflow_overflow: stopped after batch {batch}, as abort_after_batch_num="
                    f"{self.abort_after_batch_num} asks."
                )

    def _report(self, batch: int, module: Any, bad: Sequence[tuple[str, str]]) -> None:
        print(f"\nDetected inf/nan during batch_number={batch}")
        print(f"Last {len(self.frames)} forward frames:")
        print(_HEADER)
        print("\n".join(self.frames))
        name = self.module_names[module] or "the model"
        found = ", ".join(f"{what} has {kind}" for what, kind in bad)
        raise NonFiniteError(
            f"underflow_overflow: in batch {batch}, {name} ({type(module).__name__}): {found}; the frames "
            "before it are printed above."
        )


def _values(module: Any, inputs: Any, named: Mapping[str, Any], output: Any) -> Iterator[tuple[str, Any]]:
    """What there is to look at, with how it is called."""
    yield from module.named_parameters(recurse=False)
    yield from _parts("input", inputs)
    yield from _parts("input", named)
    yield from _parts("output", output)


def _parts(what: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value itself, or those in a tuple or mapping of them, at any depth."""
    if isinstance(value, Mapping) or hasattr(value, "to_tuple"):
        for name, part in value.items():
            yield from _parts(f"{what}[{name}]", part)
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _parts(f"{what}[{number}]", part)
    else:
        yield what, value


def _extremes(value: Any) -> str:
    """Smallest and largest absolute value, in 17 columns."""
    import torch

    if not isinstance(value, torch.Tensor):
        return f"{'None' if value is None else 'not a tensor':>17}"
    if not value.numel():
        return f"{'empty':>17}"
    sizes = (value.detach().int() if value.dtype == torch.bool else value.detach()).abs()
    return f"{sizes.min().item():8.2e} {sizes.max().item():8.2e}"


def _not_finite(value: Any) -> list[str]:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or torch.isfinite(value).all():
        return []
    return [name for name, found in (("nan", torch.isnan(value)), ("inf", torch.isinf(value))) if found.any()]
