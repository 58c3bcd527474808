"""A model of a folder or a hub's repository: what is read, and what becomes of weights that do not fit.

Names of options and their behaviour are the reference's (main_classes/model, ``from_pretrained``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from conf.errors import CheckpointError, ConfigError
from conf.hub_files import HubOptions, folder_of
from conf.logging import get_logger
from conf.plugins import nearest, thing_of
from models import CATALOG
from models.config import AutoConfig, DType, ModelConfig
from models.config_files import CONFIG_FILES, refuse_foreign_code
from models.config_updates import field_names
from models.layers.initialization import draw_own_weights
from models.task_model import TaskModel
from models.tasks import family_table
from models.weights.load import LoadReport, load_weights
from models.weights.safetensors import weight_files
from models.weights.sources import BIN, SAFE, GivenTensors, Source, open_weights

Make = Callable[..., TaskModel]
logger = get_logger(__name__)
FRESH = "; drawn afresh, to be trained before use"


@dataclass(frozen=True, kw_only=True)
class LoadOptions(HubOptions):
    """How a pretrained model is loaded.

    ``config``: in place of the folder's, or a path to it. ``state_dict``: tensors in place of files, by their
    checkpoint keys or their names in the model. ``dtype``: of the weights; "auto" or None is the
    configuration's, else that of the first floating-point tensor. ``device``, or a ``device_map`` that names
    one: where they lie. ``ignore_mismatched_sizes``: draw weights of another shape afresh.
    ``output_loading_info``: return also what did not fit. ``use_safetensors``: True or False for one kind of
    file alone. ``variant``: of the files, as in ``model.fp16.safetensors``. ``attn_implementation``: as
    ``set_attn_implementation`` takes it. Raises ``ConfigError`` for what is never done, and for a device that
    is not there.
    """

    config: ModelConfig | str | Path | None = None
    state_dict: Mapping[str, Tensor] | None = None
    dtype: torch.dtype | str | None = None
    device: torch.device | str = "cpu"
    device_map: Any = None
    ignore_mismatched_sizes: bool = False
    output_loading_info: bool = False
    use_safetensors: bool | None = None
    variant: str | None = None
    weights_only: bool = True
    attn_implementation: str | Mapping[str, str] = "sdpa"
    trust_remote_code: bool | None = None

    def __post_init__(self) -> None:
        refuse_foreign_code(self.trust_remote_code)
        if not self.weights_only:
            raise ConfigError("weights_only: a pickle that can run code is never read; leave it at true")
        if self.device_map is not None:
            object.__setattr__(self, "device", _one_device(self.device_map))
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # an unknown name, or a torch or machine without it
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ConfigError(f"device: {self.device!r} cannot be used here ({reason})") from error


def _one_device(device_map: Any) -> torch.device | str:
    """The device that all of a ``device_map`` is on."""
    devices = set(device_map.values()) if isinstance(device_map, Mapping) else {device_map}
    devices = devices or {"cpu"}
    if len(devices) > 1 or devices & {"auto", "balanced", "balanced_low_0", "sequential", "disk"}:
        raise ConfigError(
            f"device_map: {device_map!r} would split the model; it is loaded onto one device, name that one"
        )
    device = devices.pop()
    return torch.device("cuda", device) if isinstance(device, int) else device


def load_pretrained(make: Make, name: str | Path | None, given: Mapping[str, Any]) -> Any:
    """The model that ``make`` builds of a folder's or repository's configuration, with its weights.

    ``given`` are ``LoadOptions``, fields of the configuration to replace, and options of the family's
    backbone. ``name`` may be None where they have a configuration and tensors. At no time is more than one
    tensor held twice. Returns the model in evaluation mode, with ``output_loading_info`` together with a dict
    of ``missing_keys``, ``unexpected_keys``, ``mismatched_keys`` and ``error_msgs``. ``ConfigError`` for
    options that cannot be, ``CheckpointError`` for files that cannot be used or do not fit.
    """
    known = {option.name for option in fields(LoadOptions)}
    options = LoadOptions(**{option: value for option, value in given.items() if option in known})
    if name is None and None in (options.config, options.state_dict):
        raise ConfigError("from_pretrained: without a folder or name, give both config and state_dict")
    config, extras = _config(name, options, {key: given[key] for key in given.keys() - known})
    source = _source(name, options)
    dtype = _dtype(options.dtype, config, source)
    model = make(
        config, device="meta", dtype=dtype, attn_implementation=options.attn_implementation, **extras
    )
    where = name
    if options.state_dict is not None:
        source, where = GivenTensors(_by_keys(model, options.state_dict)), "state_dict"
    report = load_weights(model, source, device=options.device)
    for sentence in settle(model, report, where, options.device, options.ignore_mismatched_sizes):
        logger.warning(sentence)
    model.eval()
    return (model, _loading_info(report)) if options.output_loading_info else model


def _by_keys(model: TaskModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that have the model's own names, as of its ``state_dict``, by their checkpoint keys."""
    own = model.state_dict(keep_vars=True).keys()
    return {model.keymap.to_checkpoint(key) if key in own else key: value for key, value in tensors.items()}


def _config(
    name: str | Path | None, options: LoadOptions, others: Mapping[str, Any]
) -> tuple[ModelConfig, dict[str, Any]]:
    """The configuration with what replaces its fields, and the rest of ``others``: the backbone's."""
    config = options.config
    if not isinstance(config, ModelConfig):
        config = AutoConfig.from_pretrained(config or name, **options.of_the_hub())
    names = field_names(config)
    changes = {key: value for key, value in others.items() if key in names}
    config = replace(config.update(changes), name_or_path=str(name or ""))
    extras = {key: value for key, value in others.items() if key not in names}
    refuse_unknown_options(config, extras, beside=names)
    return config, extras


def refuse_unknown_options(config: ModelConfig, given: Iterable[str], beside: Iterable[str] = ()) -> None:
    """``ConfigError`` for what a family's backbone does not take; ``beside`` are names that would do too."""
    backbone = thing_of(CATALOG, config.model_type, "model_type")
    taken = signature(backbone).parameters.keys() - {"config"}
    for key in sorted(set(given) - taken):
        where = f"{type(config).__name__}.{key}"
        raise ConfigError(f"{where}: no such option; {nearest(key, {*beside, *taken})}")


def _source(name: str | Path | None, options: LoadOptions) -> Source:
    """Where the weights come from; of a repository only files of the kind that is read are fetched."""
    if options.state_dict is not None:
        return GivenTensors(options.state_dict)
    kinds = {None: (SAFE, BIN), True: (SAFE,), False: (BIN,)}
    for kind in kinds[options.use_safetensors]:
        patterns = weight_files(kind, options.variant)
        folder = folder_of(name, (*CONFIG_FILES, *patterns), options)
        if any((folder / pattern).is_file() for pattern in patterns):
            break
    return open_weights(folder, use_safetensors=options.use_safetensors, variant=options.variant)


def _dtype(given: torch.dtype | str | None, config: ModelConfig, source: Source) -> torch.dtype:
    if given not in (None, "auto"):
        return torch_dtype(given)  # type: ignore[return-value]
    if config.dtype is not None:
        return torch_dtype(config.dtype)  # type: ignore[return-value]
    found = (source.dtype(key) for key in source.keys())  # noqa: SIM118
    return next((dtype for dtype in found if dtype.is_floating_point), torch.float32)


def torch_dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    """``"bfloat16"`` to ``torch.bfloat16``; ``ConfigError`` for what is no type of weights."""
    if name is None:
        return None
    name = str(name).removeprefix("torch.")
    if name not in get_args(DType):
        raise ConfigError(f"model.dtype: there is no {name!r}; {nearest(name, get_args(DType))}")
    return getattr(torch, name)


def settle(
    model: TaskModel,
    report: LoadReport,
    where: str | Path,
    device: torch.device | str = "cpu",
    ignore_mismatched_sizes: bool = False,
) -> list[str]:
    """Draw afresh what the files cannot fill and may lack; a sentence on each kind of what did not fit.

    May be missing: a head, and what the family lists in its table as ``DRAWN_IF_MISSING``, regular
    expressions of how our names begin. Of another shape: anything with ``ignore_mismatched_sizes``.
    ``CheckpointError`` for other gaps. Draws from torch's generator, in the order of the model.
    """
    table = family_table(model.config.model_type)
    optional = "|".join((r"head\.", *getattr(table, "DRAWN_IF_MISSING", ())))
    drawn = {model.keymap.to_checkpoint(name) for name in report.unloaded if re.match(optional, name)}
    shapes = [mismatch.key for mismatch in report.mismatched]
    gaps = [key for key in report.missing if key not in drawn]
    gaps += [] if ignore_mismatched_sizes else shapes
    if gaps:
        raise CheckpointError(
            f"{where}: the weights do not fit config.json; missing or of another shape: {_listed(gaps)}"
        )
    draw_missing(model, set(report.unloaded), device)
    said = [
        ("lacks", report.missing, FRESH),
        ("has in another shape", shapes, FRESH),
        ("has", report.unexpected, ", which this model has no use for"),
    ]
    return [f"{where}: {verb} {_listed(keys)}{end}" for verb, keys, end in said if keys]


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return f"{', '.join(keys[:5])}{more}"


@torch.no_grad()
def draw_missing(model: TaskModel, names: set[str], device: torch.device | str) -> None:
    """Draw these of the model's parameters as a fresh model would; all others stay, and tied ones tied.

    Those on the meta device are made on ``device``.
    """
    if not names:
        return
    for prefix, module in model.named_modules():
        own = dict(chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)))
        lost = [name for name in own if f"{prefix}.{name}" in names]
        if not lost:
            continue
        kept = [(tensor, tensor.clone()) for name, tensor in own.items() if name not in lost]
        for name in lost:
            if own[name].is_meta:
                new = torch.empty_like(own[name], device=device)
                is_parameter = isinstance(own[name], nn.Parameter)
                setattr(module, name, nn.Parameter(new, own[name].requires_grad) if is_parameter else new)
        draw_own_weights(module, model.config.initializer_range)
        for tensor, value in kept:
            tensor.copy_(value)
    model.tie_weights()


def _loading_info(report: LoadReport) -> dict[str, Any]:
    """What did not fit, as the reference tells it."""
    return {
        "missing_keys": set(report.missing),
        "unexpected_keys": set(report.unexpected),
        "mismatched_keys": {(m.key, m.found, m.expected) for m in report.mismatched},
        "error_msgs": [],
    }
