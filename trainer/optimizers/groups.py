"""Which parameters are trained together: their learning rate, their weight decay and their role.

A group costs a call a step, so parameters are one group unless one of these differs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor, nn

from conf.errors import ConfigError
from conf.patterns import compiled_pattern, matching, near
from models.task_model import TaskModel
from trainer.optimizers.options import OptimizerOptions, ParameterGroup

# `model.layers.3.mlp...`: the stack and the layer's number in it; the first number of a name counts.
_LAYER = re.compile(r"(?P<stack>.*?(?:^|\.)(?:layers?|h|blocks?))\.(?P<number>\d+)\.")
_SECOND_MATRICES = ("lora_B", "lora_embedding_B")
_TARGETS = "optimizer.optim_target_modules"


class _Kind(NamedTuple):
    """What the parameters of a group have in common; no rate is the optimizer's own."""

    learning_rate: float | None
    weight_decay: float
    role: str | None


def parameter_groups(
    model: nn.Module,
    names: Mapping[str, str],
    options: OptimizerOptions,
    *,
    decayed: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """The trained parameters in as few groups as their options allow; those of the base rate come first.

    Each has ``params``, ``param_names``, ``weight_decay``, and where they differ from the others ``lr`` and
    ``role``: "targeted" for the weights of the linear layers that the options choose, "embedding" for tables
    whose state is kept in another way.

    ``names`` maps the model's parameter names to the checkpoint's, under which the groups list them
    (``param_names``). A parameter that is used under several names is taken once. ``decayed`` names those
    that decay, if it is not for ``decays`` to say. Works on the meta device. Raises ``ConfigError`` for an
    option that would do nothing with this model.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        return []
    by_key = {names[name]: parameter for name, parameter in trained.items()}
    own = _own_options(options.groups, by_key)
    shares = _rate_shares(model, names, options, by_key)
    roles = _roles(model, names, options, by_key)
    members: dict[_Kind, list[str]] = {}
    for name, parameter in trained.items():
        key = names[name]
        given = own.get(key)
        rate = options.learning_rate * shares.get(key, 1.0)
        if given is not None and given.learning_rate is not None:
            rate = given.learning_rate
        is_decayed = decays(parameter) if decayed is None else name in decayed
        decay = options.weight_decay if is_decayed else 0.0
        if given is not None and given.weight_decay is not None:
            decay = given.weight_decay
        kind = _Kind(None if rate == options.learning_rate else rate, decay, roles.get(id(parameter)))
        members.setdefault(kind, []).append(key)
    kinds = sorted(members, key=lambda kind: (kind.learning_rate is not None, not kind.weight_decay))
    return [_group(kind, members[kind], by_key) for kind in kinds]


def decays(parameter: Tensor) -> bool:
    """Whether weight decay is for this parameter: matrices and tables, and not norms and biases."""
    return parameter.ndim >= 2


def _group(kind: _Kind, keys: list[str], parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    group: dict[str, Any] = {
        "params": [parameters[key] for key in keys],
        "param_names": keys,
        "weight_decay": kind.weight_decay,
    }
    if kind.learning_rate is not None:
        group["lr"] = kind.learning_rate
    if kind.role is not None:
        group["role"] = kind.role
    return group


# -- options by name and by layer --------------------------------------------------------------------


def _own_options(groups: Mapping[str, ParameterGroup], trained: Iterable[str]) -> dict[str, ParameterGroup]:
    """The first of the ``groups`` whose pattern matches, for each name that one does."""
    own: dict[str, ParameterGroup] = {}
    for label, group in groups.items():
        path = f"optimizer.groups.{label}.pattern"
        matched = matching(group.pattern, trained, path, "trained parameter")
        fresh = [name for name in matched if name not in own]
        if not fresh:
            raise ConfigError(
                f"{path}: groups before it hold all that {group.pattern!r} matches, and the first counts; "
                "put it before them, or leave it out."
            )
        own |= dict.fromkeys(fresh, group)
    return own


def _rate_shares(
    model: nn.Module, names: Mapping[str, str], options: OptimizerOptions, trained: Iterable[str]
) -> dict[str, float]:
    """What the base rate is multiplied by, for the names where it is not 1."""
    shares: dict[str, float] = {}
    if options.layer_decay is not None:
        tables = _embeddings(model)
        keys = {names[name]: id(parameter) in tables for name, parameter in model.named_parameters()}
        shares |= {key: options.layer_decay**levels for key, levels in _levels_below(keys).items()}
    if options.loraplus_lr_ratio is not None:
        seconds = [name for name in trained if any(word in name for word in _SECOND_MATRICES)]
        if not seconds:
            raise ConfigError(
                "optimizer.loraplus_lr_ratio: the model has no second matrix of an adapter (lora_B) that is "
                "trained; leave it out."
            )
        shares |= {name: shares.get(name, 1.0) * options.loraplus_lr_ratio for name in seconds}
    return shares


def _levels_below(keys: Mapping[str, bool]) -> dict[str, int]:
    """How many levels each parameter is below the head, the last layer being 1 below it.

    Embeddings (for which ``keys`` say true) and whatever comes before the first layer are a level below all
    layers; what else has no number belongs to the head, which is left out. Layers are counted in each stack
    by itself, as that of an encoder or a decoder.
    """
    found = {name: match for name in keys if (match := _LAYER.match(name))}
    if not found:
        raise ConfigError(
            "optimizer.layer_decay: no parameter's name has the number of its layer, as in 'layers.3.'; "
            "leave it out, or give rates with optimizer.groups."
        )
    depths: dict[str, int] = {}
    for match in found.values():
        depths[match["stack"]] = max(depths.get(match["stack"], 0), int(match["number"]) + 1)
    below = {name: depths[match["stack"]] - int(match["number"]) for name, match in found.items()}
    before = set(takewhile(lambda name: name not in found, keys))
    lowest = [name for name, is_table in keys.items() if name not in found and (is_table or name in before)]
    return below | dict.fromkeys(lowest, max(depths.values()) + 1)


# -- roles -------------------------------------------------------------------------------------------


def _roles(
    model: nn.Module, names: Mapping[str, str], options: OptimizerOptions, trained: Mapping[str, Tensor]
) -> dict[int, str]:
    """The role of each parameter that has one, by its ``id``."""
    roles: dict[int, str] = {}
    if options.keeps_embeddings:
        roles |= dict.fromkeys(_embeddings(model), "embedding")
    if hasattr(options, "optim_target_modules"):
        targeted = _targeted(model, names, options.optim_target_modules, trained)
        roles |= {id(trained[name]): "targeted" for name in targeted}
    return roles


def _targeted(
    model: nn.Module,
    names: Mapping[str, str],
    wanted: str | Collection[str] | None,
    trained: Mapping[str, Tensor],
) -> list[str]:
    """The trained weights of the linear layers that ``wanted`` names: by default all but the output head's.

    A text is a regular expression for whole names of layers, or ``all-linear``; in a list each word is one as
    well, or a part of a name (reference: main_classes/trainer, ``optim_target_modules``).
    """
    linear = _linear_weights(model)
    layers = {
        name.removesuffix(".weight"): name for name, parameter in trained.items() if id(parameter) in linear
    }
    if wanted is None:
        head = _head_weights(model)
        chosen = [name for name in layers.values() if id(trained[name]) not in head]
    elif isinstance(wanted, str) and wanted.replace("_", "-") == "all-linear":
        chosen = [*layers.values()]
    elif isinstance(wanted, str):
        chosen = [layers[layer] for layer in matching(wanted, layers, _TARGETS, "linear layer")]
    else:
        holding = {layer for word in wanted for layer in _holding(word, [*layers])}
        chosen = [name for layer, name in layers.items() if layer in holding]
    if not chosen:
        raise ConfigError(f"{_TARGETS}: no linear layer of the model is trained; choose another optimizer.")
    return chosen


def _holding(word: str, layers: list[str]) -> list[str]:
    """The layers whose name has this word as a part or is matched by it; ``ConfigError`` if none."""
    pattern = compiled_pattern(word, _TARGETS)
    found = [layer for layer in layers if word in layer or pattern.fullmatch(layer)]
    if not found:
        raise ConfigError(f"{_TARGETS}: {word!r} names no linear layer that is trained; {near(word, layers)}")
    return found


def _embeddings(model: nn.Module) -> set[int]:
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _linear_weights(model: nn.Module) -> set[int]:
    """The weights of linear layers, a task's head among them, but for one that is also an embedding."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    if isinstance(model, TaskModel) and model.head is not None:
        weights |= {id(parameter) for parameter in model.head.parameters() if parameter.ndim == 2}
    return weights - _embeddings(model)


def _head_weights(model: nn.Module) -> set[int]:
    """The weights that give a model's outputs: those of its head, or else of its last linear layer."""
    if isinstance(model, TaskModel):
        return {id(parameter) for parameter in model.head.parameters()} if model.head is not None else set()
    output = getattr(model, "get_output_embeddings", lambda: None)()
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return {id(layer.weight) for layer in ([output] if output is not None else layers[-1:])}
