"""An optimizer's state as tensors and plain values, written and read back exactly.

Tensors are listed under "<parameter>/<state>", parameters by the names that the groups list
(``param_names``). A state that is packed out of several tensors has them under "<parameter>/<state>.<part>",
and what is needed to make one of them again among the plain values. Some optimizers also keep what changes in
their groups; whatever of a group is not as it began is state too, but for the learning rate, which the
schedule sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from conf.errors import CheckpointError
from conf.plugins import resolve
from models.weights import WeightFiles
from trainer.schedules import is_plain

NO_STATE = ("params", "param_names", "lr", "initial_lr")

# Kinds of tensors packed out of several: where the class is, and what it wants beside its parts.
PACKED = {
    "OptimState8bit": ("torchao.optim.subclass_8bit:OptimState8bit", ("signed", "dtype")),
    "OptimState4bit": ("torchao.optim.subclass_4bit:OptimState4bit", ("signed", "shape", "dtype")),
    "OptimStateFp8": ("torchao.optim.subclass_fp8:OptimStateFp8", ("dtype",)),
}
TYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}


def split_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors under "<parameter>/<state>", and what is no tensor."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter, _ in _named_parameters(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if type(value).__name__ in PACKED:
                parts, scalars[f"{name}/{key}"] = _unpacked(value)
                tensors |= {f"{name}/{key}.{part}": tensor for part, tensor in parts.items()}
            elif isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            elif value is not None:
                scalars[f"{name}/{key}"] = value
    return tensors, scalars


def restore_state(optimizer: torch.optim.Optimizer, files: WeightFiles, scalars: Mapping[str, Any]) -> None:
    """Put back what ``split_state`` gave; ``CheckpointError`` if it is of other parameters or kinds."""
    parameters = {name: (parameter, group) for name, parameter, group in _named_parameters(optimizer)}
    packed = {key: value for key, value in scalars.items() if isinstance(value, Mapping)}
    parts: dict[str, dict[str, Tensor]] = {key: {} for key in packed}
    values: dict[str, Any] = {key: value for key, value in scalars.items() if key not in packed}
    for key in [*files.keys(), *scalars]:
        name, _, state = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"{files.folder}: optimizer state of {name!r}, which is not trained here.")
        if key in scalars:
            continue
        value = _in_memory(optimizer, *parameters[name], state, files.get(key))
        whole, _, part = key.rpartition(".")
        if whole in packed:
            parts[whole][part] = value
        else:
            values[key] = value
    values |= {key: _packed(kept, parts[key], f"{files.folder}: {key}") for key, kept in packed.items()}
    for key, value in values.items():
        name, _, state = key.rpartition("/")
        optimizer.state[parameters[name][0]][state] = value


def group_values(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The plain values of each group as they are now, but for the learning rate."""
    return [
        {key: value for key, value in group.items() if key not in NO_STATE and is_plain(value)}
        for group in optimizer.param_groups
    ]


def changed_values(
    optimizer: torch.optim.Optimizer, began: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What of ``group_values`` is no longer as it ``began``."""
    return [
        {key: value for key, value in now.items() if key not in then or then[key] != value}
        for now, then in zip(group_values(optimizer), began, strict=True)
    ]


def restore_values(optimizer: torch.optim.Optimizer, changed: Sequence[Mapping[str, Any]]) -> None:
    """Put back what ``changed_values`` gave; ``CheckpointError`` if it is of groups that are not these."""
    if not any(changed):
        return  # with other groups, as of another decay, there is nothing to lose
    if len(changed) != len(optimizer.param_groups):
        raise CheckpointError(
            f"optimizer: the checkpoint has {len(changed)} groups of parameters, and here are "
            f"{len(optimizer.param_groups)}; leave the options of the optimizer as they were."
        )
    for group, values in zip(optimizer.param_groups, changed, strict=True):
        group.update({key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Each trained parameter with its name and its group."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            yield name, parameter, group


def _in_memory(
    optimizer: torch.optim.Optimizer, parameter: Tensor, group: Mapping[str, Any], state: str, value: Tensor
) -> Tensor:
    """What was read of a state, in memory as the optimizer would have it.

    It is a copy into torch's own memory, as kernels may round differently on memory aligned another way. An
    optimizer that wants other memory has a method ``memory_for(parameter, state, like)``.
    """
    if hasattr(optimizer, "memory_for"):
        return optimizer.memory_for(parameter, state, value).copy_(value)
    # torch keeps the count of steps on the CPU unless its kernel reads it on the device.
    on_device = state != "step" or group.get("fused") or group.get("capturable")
    return torch.empty_like(value, device=parameter.device if on_device else value.device).copy_(value)


def _unpacked(value: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that a packed one is made of, and its kind with what else it wants, as plain values."""
    kind = type(value).__name__
    parts, wanted = value.__tensor_flatten__()
    plain = {
        name: str(item) if isinstance(item, torch.dtype) else list(item) if name == "shape" else item
        for name, item in zip(PACKED[kind][1], wanted, strict=True)
    }
    return {part: getattr(value, part) for part in parts}, {"kind": kind, **plain}


def _packed(kept: Mapping[str, Any], parts: Mapping[str, Tensor], where: str) -> Tensor:
    """What ``_unpacked`` took apart; ``where`` names it in a ``CheckpointError``."""
    kind, dtype = kept.get("kind"), kept.get("dtype")
    if kind not in PACKED or dtype not in TYPES:
        raise CheckpointError(f"{where} is a tensor of the unknown kind {kind!r} and type {dtype!r}.")
    address, names = PACKED[kind]
    cls = resolve(address)
    missing = [part for part in cls.tensor_attrs if part not in parts]
    missing += [name for name in names if name not in kept]
    if missing:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}; the checkpoint is damaged.")
    plain = {**kept, "dtype": TYPES[dtype], "shape": torch.Size(kept.get("shape", ()))}
    return cls(*(parts[part] for part in cls.tensor_attrs), *(plain[name] for name in names))
