"""Model configurations: frozen facts about an architecture, read from and written to ``config.json``.

Field names are upstream's (``hidden_size``, ``num_hidden_layers``, ...). Nothing here imports torch, so that
a configuration can be judged before torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from conf.errors import CheckpointError, ConfigError
from conf.plugins import nearest, options_of

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
Activation = Literal["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu"]
DType = Literal["float32", "bfloat16", "float16", "float64"]

CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every family's configuration has: a classification head's labels, and the rest of its file.

    ``extra`` holds the keys of a ``config.json`` that this library has no use for; they are written back.
    """

    model_type: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]

    architectures: tuple[str, ...] | None = None
    dtype: DType | None = None
    num_labels: int | None = None  # None: the number of id2label's entries, else 2
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: ProblemType | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.architectures is not None:
            self._set("architectures", tuple(self.architectures))
        if self.id2label is not None:
            self._set("id2label", {int(key): value for key, value in self.id2label.items()})
        if self.num_labels is None:
            self._set("num_labels", len(self.id2label) if self.id2label is not None else 2)
        self._refuse(self._label_problems())

    def _label_problems(self) -> list[str]:
        problems = []
        if self.num_labels < 1:
            problems.append(f"num_labels: must be at least 1, got {self.num_labels}")
        if self.id2label is not None and len(self.id2label) != self.num_labels:
            problems.append(
                f"num_labels: is {self.num_labels}, but id2label has {len(self.id2label)} entries"
            )
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            problems.append(
                "problem_type: single_label_classification needs num_labels of at least 2; "
                "a single output is problem_type=regression"
            )
        return problems

    def _set(self, name: str, value: Any) -> None:
        """Fill in a field whose value follows from the others, while the frozen instance is being made."""
        object.__setattr__(self, name, value)

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise ConfigError(f"{type(self).__name__}.{problem}" for problem in problems)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """A ready-made shape, with single fields replaced; ``ConfigError`` naming the nearest if unknown."""
        if name not in cls.presets:
            raise ConfigError(f"{cls.model_type}: there is no preset {name!r}; {nearest(name, cls.presets)}")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the contents of a ``config.json``, older spellings of its keys included.

        Keys unknown here are kept in ``extra``. Raises ``ConfigError`` for another family's file or bad
        values.
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
        return cls(**given, extra=extra)

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Replace keys of older files by today's; a family adds its own."""
        legacy_dtype = data.pop("torch_dtype", None)
        if data.get("dtype") is None:
            data["dtype"] = legacy_dtype
        if data.get("dtype") is not None:
            data["dtype"] = str(data["dtype"]).removeprefix("torch.")
        return data

    def to_json_string(self) -> str:
        """The text of a ``config.json``, which callbacks written for the reference ask for."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The contents of a ``config.json`` that upstream loads: plain JSON values only."""
        written = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "extra"}
        for name in ("architectures", "dtype", "id2label", "label2id", "problem_type"):
            if written[name] is None:
                del written[name]
        num_labels = written.pop("num_labels")
        if "id2label" not in written and num_labels != 2:
            written["id2label"] = {str(index): f"LABEL_{index}" for index in range(num_labels)}
        if "id2label" in written and "label2id" not in written:
            written["label2id"] = {label: int(index) for index, label in written["id2label"].items()}
        merged = {**self.extra, **written, "model_type": self.model_type}
        for key, value in self.extra.items():  # what a file's nested mapping held besides the fields
            if isinstance(value, Mapping) and isinstance(written.get(key), dict):
                merged[key] = {**value, **written[key]}
        return dict(sorted(merged.items()))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read ``config.json`` of a model folder."""
        return cls.from_dict(read_config_file(folder))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` into ``folder``, which is made if missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / CONFIG_FILE).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def read_config_file(folder: str | Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a model folder; ``CheckpointError`` if there is none or it is broken."""
    path = Path(folder) / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; a model folder holds a {CONFIG_FILE}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds {type(data).__name__} where a JSON object is expected")
    return data


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
    def from_pretrained(folder: str | Path) -> ModelConfig:
        """Read ``config.json`` of a model folder; ``CheckpointError`` if it cannot be read."""
        return AutoConfig.from_dict(read_config_file(folder), f"{Path(folder) / CONFIG_FILE}: model_type")

    @staticmethod
    def from_dict(data: Mapping[str, Any], path: str = "model_type") -> ModelConfig:
        """From the contents of a ``config.json``; ``ConfigError`` naming ``path`` for an unknown family."""
        from models import CATALOG

        return options_of(CATALOG, str(data.get("model_type")), path).from_dict(data)
