"""Model configurations: frozen facts about an architecture, read from and written to ``config.json``.

Field names are upstream's (``hidden_size``, ``num_hidden_layers``, ...). Nothing here imports torch, so that
a configuration can be judged before torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self, get_args

from conf.errors import ConfigError
from conf.plugins import Entry, nearest, options_of
from models.config_files import CONFIG_FILE, config_dict, read_json
from models.config_types import type_problems
from models.config_updates import changes_of_text, field_names, refuse_unknown, with_labels

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
Activation = Literal["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu"]
DType = Literal["float32", "bfloat16", "float16", "float64"]

# The parts of a model of several that write text, and that read it.
DECODERS, ENCODERS = ("decoder", "generator", "text_config"), ("text_encoder",)
# What a ``config.json`` need not say.
PLAIN = {
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "dtype": None,
    "is_encoder_decoder": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every family's configuration has: a classification head's labels, and the rest of its file.

    A configuration is frozen: what changes one in the reference returns a new one here. ``num_labels``,
    ``id2label`` and ``label2id`` follow from each other; labels without names are called ``LABEL_0`` and so
    on. ``chunk_size_feed_forward`` (tokens that a feed-forward layer takes at once, 0 for all) is for
    families that have a field of that name themselves. ``name_or_path`` is where the model came from; it is
    not saved. ``extra`` holds the keys of a ``config.json`` that this library has no use for, settings of
    generation in older files among them; they are written back.
    Source of names and behaviour: reference page main_classes/configuration.
    """

    model_type: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]

    architectures: tuple[str, ...] | None = None
    dtype: DType | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    num_labels: int | None = None  # None: the number of id2label's entries, else 2
    id2label: dict[int, str] | None = None  # None: without names
    label2id: dict[str, int] | None = None  # None: as id2label says
    problem_type: ProblemType | None = None
    name_or_path: str = field(default="", compare=False)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype is not None:  # torch's own types do as well
            self._set("dtype", str(self.dtype).removeprefix("torch."))
        self._refuse(type_problems(self) or self._choice_problems())
        for name in ("architectures", "eos_token_id"):  # a file has lists
            if isinstance(value := getattr(self, name, None), list):
                self._set(name, tuple(value))
        self._set_labels()
        self._refuse(self._label_problems() + self._idle_problems())

    def _set_labels(self) -> None:
        """Let number and names of the labels follow from each other."""
        named = self.id2label is not None and not _without_names(self.id2label)
        if self.num_labels is None:
            self._set("num_labels", 2 if self.id2label is None else len(self.id2label))
        if named:
            self._set("id2label", {int(key): value for key, value in self.id2label.items()})
        else:
            self._set("id2label", {index: f"LABEL_{index}" for index in range(self.num_labels)})
        if self.label2id is None or _without_names({index: name for name, index in self.label2id.items()}):
            self._set("label2id", {name: index for index, name in self.id2label.items()})

    def _choice_problems(self) -> list[str]:
        choices = (("dtype", get_args(DType)), ("problem_type", get_args(ProblemType)))
        return [
            f"{name}: there is no {value!r}; {nearest(value, known)}"
            for name, known in choices
            if (value := getattr(self, name)) not in (None, *known)
        ]

    def _label_problems(self) -> list[str]:
        problems = []
        if self.num_labels < 1:
            problems.append(f"num_labels: must be at least 1, got {self.num_labels}")
        elif len(self.id2label) != self.num_labels:
            problems.append(
                f"num_labels: is {self.num_labels}, but id2label has {len(self.id2label)} entries"
            )
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            problems.append(
                "problem_type: single_label_classification needs num_labels of at least 2; "
                "a single output is problem_type=regression"
            )
        return problems

    def _idle_problems(self) -> list[str]:
        """Fields of every configuration that would do nothing in this family."""
        own = {
            name for kind in type(self).__mro__[:-1] if kind is not ModelConfig for name in _fields_of(kind)
        }
        return [
            f"{name}: has no effect in a {self.model_type}, leave it at {PLAIN[name]}"
            for name in ("chunk_size_feed_forward", "is_encoder_decoder")
            if getattr(self, name) != PLAIN[name] and name not in own
        ]

    def _set(self, name: str, value: Any) -> None:
        """Fill in a field whose value follows from the others, while the frozen instance is being made."""
        object.__setattr__(self, name, value)

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise ConfigError(f"{type(self).__name__}.{problem}" for problem in problems)

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifying head, where the family's own fields do not say another."""
        return 0.1

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """A ready-made shape, with single fields replaced; ``ConfigError`` naming the nearest if unknown."""
        if name not in cls.presets:
            raise ConfigError(f"{cls.model_type}: there is no preset {name!r}; {nearest(name, cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """Read the contents of a ``config.json``, older spellings of its keys included; then ``update``.

        Keys unknown here are kept in ``extra``. With ``return_unused_kwargs`` the result is the configuration
        and those of the ``changes`` that are no fields of it. Raises ``ConfigError`` for another family's
        file or bad values.
        """
        data = dict(data)
        found = data.pop("model_type", cls.model_type)
        if found != cls.model_type:
            raise ConfigError(
                f"model_type: this is a {found!r} configuration, {cls.__name__} reads {cls.model_type!r}"
            )
        data = cls._modernize(data)
        known = {f.name: f for f in fields(cls) if f.name != "extra"}
        extra = {**data.pop("extra", {}), **{key: value for key, value in data.items() if key not in known}}
        # A null where a value is needed is how some files say "the default".
        given = {k: v for k, v in data.items() if k in known and (v is not None or "None" in known[k].type)}
        config = cls(**given, extra=extra)
        if not return_unused_kwargs:
            return config.update(changes)
        unused = {name: changes.pop(name) for name in changes.keys() - field_names(cls)}
        return config.update(changes), unused

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Replace keys of older files by today's; a family adds its own."""
        legacy_dtype = data.pop("torch_dtype", None)
        if data.get("dtype") is None:
            data["dtype"] = legacy_dtype
        data["name_or_path"] = data.pop("_name_or_path", "")
        return data

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values; ``from_dict`` and upstream's configurations read it."""
        written = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "extra"}
        del written["num_labels"]  # told by id2label
        written["_name_or_path"] = written.pop("name_or_path")
        merged = {**self.extra, **written, "model_type": self.model_type}
        for key, value in self.extra.items():  # what a file's nested mapping held besides the fields
            if isinstance(value, Mapping) and isinstance(written.get(key), dict):
                merged[key] = {**value, **written[key]}
        return dict(sorted(merged.items()))

    def to_diff_dict(self) -> dict[str, Any]:
        """The contents of a ``config.json``: ``to_dict`` without what every model has unless it says so."""
        written = self.to_dict()
        del written["_name_or_path"]
        for name, value in PLAIN.items():
            if written[name] == value and name not in self.extra:
                del written[name]
        if _without_names(self.id2label) and self.num_labels == 2:
            del written["id2label"], written["label2id"]
        return written

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of a ``config.json``: ``to_diff_dict``, or ``to_dict``."""
        return (
            json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"
        )

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write ``to_json_string``."""
        Path(json_file_path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> Self:
        """Read one JSON file; ``CheckpointError`` if there is none or it is broken."""
        return cls.from_dict(read_json(Path(json_file)))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, return_unused_kwargs: bool = False, **options: Any
    ) -> Any:
        """Read ``config.json`` of a model's folder or of a hub's repository, or the JSON file itself.

        ``options`` are those of ``conf.hub_files.HubOptions`` and fields to replace. Others are returned
        beside the configuration with ``return_unused_kwargs``, and else a ``ConfigError``.
        """
        data, changes = cls.get_config_dict(folder, **options)
        changes = {"name_or_path": str(folder), **changes}
        return cls.from_dict(data, return_unused_kwargs=return_unused_kwargs, **changes)

    @staticmethod
    def get_config_dict(folder: str | Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The file that ``from_pretrained`` reads, and those of its ``options`` that are not the hub's."""
        return config_dict(folder, options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` into ``folder``, which is made if missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(folder) / CONFIG_FILE)

    def update(self, changes: Mapping[str, Any]) -> Self:
        """A new configuration with some fields replaced: ``config = config.update({"num_labels": 3})``.

        Other names of labels give their number, another number drops the names. ``ConfigError`` for what is
        no field; settings of generation are none.
        """
        refuse_unknown(self, changes)
        return replace(self, **with_labels(self, changes)) if changes else self

    def update_from_string(self, update_str: str) -> Self:
        """``update`` from text as ``"hidden_size=64,use_cache=false,hidden_act=gelu"``.

        Each value is read as the type of the one it replaces; ``ConfigError`` where it cannot be.
        """
        return self.update(changes_of_text(self, update_str))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> ModelConfig:
        """The configuration of the part that writes text (``decoder``), reads it (``encoder``), or either.

        Of a model of text alone it is this one. ``ConfigError`` where several parts are asked for at once.
        """
        names = (*ENCODERS, *DECODERS) if decoder == encoder else DECODERS if decoder else ENCODERS
        found = [name for name in names if isinstance(getattr(self, name, None), ModelConfig)]
        if len(found) > 1:
            raise ConfigError(f"get_text_config: there are {' and '.join(found)}; ask for decoder or encoder")
        return getattr(self, found[0]) if found else self

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> NoReturn:
        """Always a ``ConfigError``: a checkpoint never carries code, which is what this is for upstream."""
        raise ConfigError(
            f"{cls.__name__}: code is never saved with a checkpoint; {auto_class}.register makes a class "
            "known to the program that has it"
        )


PreTrainedConfig = ModelConfig  # the documented name


def _fields_of(kind: type) -> set[str]:
    """The fields that a class itself declares."""
    return set(vars(kind).get("__annotations__", {}))


def _without_names(id2label: Mapping[Any, str]) -> bool:
    """Whether labels are only numbered, as they are by default."""
    return all(name == f"LABEL_{key}" for key, name in id2label.items())


def _plain(value: Any) -> Any:
    """``value`` as JSON would read it back: lists for tuples, string keys."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class AutoConfig:
    """The configuration of whatever family a file is of, told by its ``model_type``."""

    @staticmethod
    def from_pretrained(folder: str | Path, *, return_unused_kwargs: bool = False, **options: Any) -> Any:
        """As ``ModelConfig.from_pretrained``, of the family that the file names.

        A file that names none is of the family whose name is in that of its folder, as older ones are.
        ``CheckpointError`` if it cannot be read.
        """
        data, changes = config_dict(folder, options)
        if "model_type" not in data:
            data |= _named_after(Path(folder).name)
        changes = {"name_or_path": str(folder), **changes}
        path = f"{Path(folder) / CONFIG_FILE}: model_type"
        return AutoConfig.from_dict(data, path, return_unused_kwargs=return_unused_kwargs, **changes)

    @staticmethod
    def from_dict(
        data: Mapping[str, Any],
        path: str = "model_type",
        *,
        return_unused_kwargs: bool = False,
        **changes: Any,
    ) -> Any:
        """From the contents of a ``config.json``; ``ConfigError`` naming ``path`` for an unknown family."""
        family = options_of(_catalog(), str(data.get("model_type")), path)
        return family.from_dict(data, return_unused_kwargs=return_unused_kwargs, **changes)

    @staticmethod
    def for_model(model_type: str, **fields: Any) -> ModelConfig:
        """A family's configuration with its defaults, but for these fields."""
        family = options_of(_catalog(), model_type, "model_type")
        refuse_unknown(family, fields)
        return family.from_dict(fields)

    @staticmethod
    def register(model_type: str, config: type[ModelConfig], exist_ok: bool = False) -> None:
        """Make a family of a program's own known by its ``model_type``, for this process.

        Its models are made known by the ``register`` of the classes in ``models.factories``.
        ``ConfigError`` for a name that is taken, unless ``exist_ok``, and for a class that has another
        ``model_type``, or that is not at the top level of a module.
        """
        catalog = _catalog()
        if getattr(config, "model_type", None) != model_type:
            raise ConfigError(
                f"AutoConfig.register: {config.__name__}.model_type is "
                f"{getattr(config, 'model_type', None)!r}, set it to {model_type!r}"
            )
        if model_type in catalog and not exist_ok:
            raise ConfigError(
                f"AutoConfig.register: {model_type!r} is taken; take another name, or exist_ok=True"
            )
        if "." in config.__qualname__:
            raise ConfigError(f"AutoConfig.register: define {config.__name__} at the top level of its module")
        catalog[model_type] = f"{config.__module__}:{config.__qualname__}"


def _catalog() -> dict[str, Entry]:
    from models import CATALOG

    return CATALOG  # type: ignore[return-value]


def _named_after(folder: str) -> dict[str, str]:
    """The longest name of a family that is in that of a folder or repository, as its ``model_type``."""
    names = sorted((name for name in _catalog() if name in folder.lower()), key=len)
    return {"model_type": names[-1]} if names else {}
