"""From a configuration or a folder to a model, the family chosen by the configuration's ``model_type``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from conf.errors import CheckpointError, ConfigError
from conf.plugins import nearest, thing_of
from models import CATALOG, HEADS
from models.config import AutoConfig, ModelConfig
from models.task_model import TaskModel
from models.weights.load import LoadReport, load_weights
from models.weights.safetensors import WeightFiles


def build_model(
    config: ModelConfig,
    head: str | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    attn_implementation: str = "sdpa",
    seed: int | None = None,
) -> TaskModel:
    """A model with fresh weights: the configuration's family under the head of a task, or under none.

    ``dtype`` defaults to fp32, ``seed`` to torch's generator as it stands. On the meta device the weights are
    shapes only, to be filled by ``models.weights.load_weights``, or by ``to_empty`` and ``init_weights``.
    ``ConfigError`` for an unknown head, data type or attention backend.
    """
    with torch.device("meta"):
        backbone = thing_of(CATALOG, config.model_type, "model_type")(
            config, attn_implementation=attn_implementation
        )
        on_top = None if head is None else thing_of(HEADS, head, "head").from_config(config)
        model = TaskModel(backbone, on_top, config).to(torch_dtype(dtype) or torch.float32)
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
        model.init_weights(seed)
    return model


def torch_dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    """``"bfloat16"`` to ``torch.bfloat16``; ``ConfigError`` for what is no type of weights."""
    if name is None or isinstance(name, torch.dtype):
        return name
    known = ("float32", "bfloat16", "float16", "float64")
    if name not in known:
        raise ConfigError(f"model.dtype: there is no {name!r}; {nearest(name, known)}")
    return getattr(torch, name)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A documented name for backbone and head; called with a configuration it makes the model.

    ``family`` limits it to one family's configurations and folders; ``head`` None is the bare backbone.
    """

    head: str | None
    family: str | None = None

    def __call__(self, config: ModelConfig, **options: Any) -> TaskModel:
        """A model with fresh weights, options as in ``build_model``."""
        if self.family not in (None, config.model_type):
            raise ConfigError(
                f"model_type: this is a {config.model_type!r} configuration, not {self.family!r}"
            )
        return build_model(config, self.head, **options)

    def from_config(self, config: ModelConfig, **options: Any) -> TaskModel:
        """A model with fresh weights, options as in ``build_model``."""
        return self(config, **options)

    def from_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = "cpu",
        attn_implementation: str = "sdpa",
        **overrides: Any,
    ) -> TaskModel:
        """The model of a folder with ``config.json`` and safetensors files, in evaluation mode.

        ``dtype`` defaults to the configuration's, else fp32. ``overrides`` replace fields of the
        configuration, as ``num_labels=3``. A head that the folder has no weights for gets fresh ones;
        ``CheckpointError`` if anything else is missing or of another shape.
        """
        config = AutoConfig.from_pretrained(folder)
        config = replace(config, **overrides) if overrides else config
        dtype = torch_dtype(dtype or config.dtype) or torch.float32
        model = self(config, device="meta", dtype=dtype, attn_implementation=attn_implementation)
        report = load_weights(model, WeightFiles(Path(folder)), dtype=dtype, device=device)
        _settle(model, report, folder, device)
        return model.eval()


def _settle(model: TaskModel, report: LoadReport, folder: str | Path, device: torch.device | str) -> None:
    """Draw a head that the files do not have; refuse any other gap."""
    head = _head_keys(model)
    gaps = [key for key in report.missing if key not in head]
    gaps += [mismatch.key for mismatch in report.mismatched]
    if gaps:
        more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json; "
            f"missing or of another shape: {', '.join(gaps[:5])}{more}"
        )
    if head & set(report.missing):
        model.head.to_empty(device=device)
        model.head.init_weights(model.config.initializer_range)


def _head_keys(model: TaskModel) -> set[str]:
    names = (name for name, _ in model.named_parameters() if name.startswith("head."))
    return {model.keymap.to_checkpoint(name) for name in names}


AutoModel = Composition(head=None)
AutoModelForCausalLM = Composition(head="causal_lm")
AutoModelForSequenceClassification = Composition(head="sequence_classification")
