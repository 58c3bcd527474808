"""Which parameters of a model are trained, by the names they have in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from conf.errors import ConfigError
from conf.patterns import matching


def freeze(
    model: nn.Module, names: Mapping[str, str], *, frozen: Sequence[str], unfrozen: Sequence[str] | None
) -> None:
    """Let only what ``unfrozen`` match be trained, and nothing that ``frozen`` match (``requires_grad``).

    Both are regular expressions for whole checkpoint names, which ``names`` gives by the model's own. Without
    ``unfrozen`` what is trained already stays so. Works on the meta device. Raises ``ConfigError`` for a
    pattern that matches nothing, and where nothing is left to train.
    """
    if unfrozen is None and not frozen:
        return
    parameters = {names[name]: parameter for name, parameter in model.named_parameters()}
    if unfrozen is not None:
        kept = _all_matching(unfrozen, parameters, "training.unfrozen_parameters")
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in kept)
    for name in _all_matching(frozen, parameters, "training.frozen_parameters"):
        parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        path = "training.frozen_parameters" if frozen else "training.unfrozen_parameters"
        raise ConfigError(f"{path}: it leaves no parameter to train; freeze fewer.")


def _all_matching(patterns: Sequence[str], parameters: Mapping[str, object], path: str) -> set[str]:
    return {
        name for i, pattern in enumerate(patterns) for name in matching(pattern, parameters, f"{path}[{i}]")
    }
