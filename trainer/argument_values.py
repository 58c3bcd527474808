"""How a value of the reference's flat arguments becomes one of a recipe.

A decoder is called with the argument's name, for its sentence, and with the value. Numbers, words and lists
are judged later, by ``conf.decode``; here text, files and foreign objects become the plain data it reads.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from conf.decode import decode_fields, encode
from conf.errors import ConfigError

Decoder = Callable[[str, Any], Any]


@dataclass(frozen=True, kw_only=True)
class AcceleratorShape:
    """The keys of ``accelerator_config``, with the reference's defaults."""

    split_batches: bool = False
    dispatch_batches: bool | None = None
    even_batches: bool = True
    use_seedable_sampler: bool = True
    non_blocking: bool = False
    gradient_accumulation_kwargs: dict[str, Any] | None = None
    use_configured_state: bool = False


@dataclass(frozen=True, kw_only=True)
class ParallelismShape:
    """The keys of ``parallelism_config``: the sizes of the device mesh."""

    dp_replicate_size: int | None = None
    dp_shard_size: int | None = None
    tp_size: int | None = None
    cp_size: int | None = None
    cp_backend: str | None = None
    sp_size: int | None = None
    sp_backend: str | None = None
    tp_handler: dict[str, Any] | None = None
    cp_handler: dict[str, Any] | None = None
    sp_handler: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class FSDPShape:
    """The keys of ``fsdp_config``, with the reference's defaults; each may begin with ``fsdp_`` too."""

    version: int = 1
    min_num_params: int = 0
    transformer_layer_cls_to_wrap: str | tuple[str, ...] | None = None
    auto_wrap_policy: str | None = None
    reshard_after_forward: bool | str | None = None
    state_dict_type: str | None = None
    cpu_offload: bool = False
    backward_prefetch: str | None = None
    forward_prefetch: bool = False
    limit_all_gathers: bool = False
    use_orig_params: bool = True
    sync_module_states: bool = True
    cpu_ram_efficient_loading: bool = False
    activation_checkpointing: bool = False
    xla: bool = False
    xla_fsdp_v2: bool = False
    xla_fsdp_settings: dict[str, Any] | None = None
    xla_fsdp_grad_ckpt: bool = False


def as_data(value: Any) -> Any:
    """Enums by value, paths as text, foreign configurations as mappings; so too inside lists and mappings."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return value
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value):
        value = {key: item for key, item in vars(value).items() if item is not None and key[0] != "_"}
    if isinstance(value, Mapping):
        return {key: as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_data(item) for item in value]
    return value


def plain(name: str, value: Any) -> Any:
    """The value itself, as data."""
    return as_data(value)


def folder(name: str, value: Any) -> Any:
    """A path, with ``~`` written out."""
    value = as_data(value)
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def checkpoint_to_resume(name: str, value: Any) -> Any:
    """A checkpoint's path; True is the newest of ``output_dir``."""
    return {True: "auto", False: None}[value] if isinstance(value, bool) else folder(name, value)


def or_zero(name: str, value: Any) -> Any:
    """None says 0."""
    return 0 if value is None else value


def or_none_word(name: str, value: Any) -> Any:
    """Trackers; nothing, an empty list and ``["none"]`` are all ``"none"``."""
    value = as_data(value)
    return "none" if value in (None, [], ["none"]) else value


def token_counting(name: str, value: Any) -> Any:
    """True counts all tokens, False none."""
    return {True: "all", False: "no"}[value] if isinstance(value, bool) else as_data(value)


def spaced(name: str, value: Any) -> Any:
    """Words as one text with spaces between them."""
    value = as_data(value)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return "" if value is None else value


def sharding(name: str, value: Any) -> Any:
    """The words of ``fsdp``; True shards everything, nothing is None."""
    return "full_shard" if value is True else spaced(name, value or None) or None


def mapping(name: str, value: Any) -> Any:
    """A mapping, the JSON text of one, the path of a JSON file, or an object of accelerate's."""
    if value is None:
        return None
    value = as_data(value)
    if isinstance(value, str):
        value = _read(name, value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{name}: a mapping, JSON text or the path of a JSON file is wanted, {value!r} was given."
        )
    return _truths(value)


def shaped(shape: type) -> Decoder:
    """A ``mapping`` whose keys and types are those of a dataclass; only what it says is kept."""

    def decode(name: str, value: Any) -> Any:
        value = mapping(name, value)
        if value is None:
            return None
        known = {field.name for field in dataclasses.fields(shape)}
        short = {key if key in known else str(key).removeprefix("fsdp_"): item for key, item in value.items()}
        return encode(decode_fields(shape, short, name))

    return decode


def optimizer_text(name: str, value: Any) -> Any:
    """``"key=value,key=value"`` as a mapping; the values are read as YAML reads them."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return mapping(name, value)
    options = {}
    for pair in filter(None, (part.strip() for part in value.split(","))):
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"{name}: options are written key=value,key=value, {pair!r} was given.")
        try:
            options[key.strip()] = None if text.strip() == "None" else yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(
                f"{name}: {pair!r} cannot be read; write options with lists as JSON, {{...}}."
            ) from None
    return options


def _read(name: str, text: str) -> Any:
    """What JSON text says, or the JSON file of that name."""
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).expanduser().read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise ConfigError(f"{name}: the file {text!r} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{name}: it is no valid JSON: {error}.") from None


def _truths(value: Any) -> Any:
    """``"true"`` and ``"False"`` written as text are truth values, as the reference takes them."""
    if isinstance(value, dict):
        return {key: _truths(item) for key, item in value.items()}
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value
