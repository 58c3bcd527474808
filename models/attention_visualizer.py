"""A picture, in text, of which tokens a model lets each token see.

Reference: the page ``model_doc/llama2``. Shapes: T tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from conf.errors import ConfigError
from models.config import AutoConfig, ModelConfig
from models.layers.attention import Visibility
from models.task_model import TaskModel
from models.tasks import family_table

SEEN, HIDDEN = "■", "⬚"
GREEN, PLAIN = "\033[92m", "\033[0m"

Numbers = Sequence[int] | Tensor


class Splitter(Protocol):
    """What a tokenizer must be able to do here."""

    def __call__(self, text: str) -> Mapping[str, Any]:
        """A text's ``input_ids``."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The tokens of ids."""


class AttentionMaskVisualizer:
    """Shows, a row for each token of a text, which tokens it may see, once for each kind of layer.

    ``model`` is a folder, a configuration or a model; of an encoder's tokens that a decoder looks at nothing
    is shown. ``tokenizer`` splits texts and names tokens; without it the folder's ``tokenizer.json`` does.
    ``colour`` marks each token itself in green; by default where the output is a terminal.

        AttentionMaskVisualizer("runs/chat")("How are you?")
    """

    def __init__(
        self,
        model: str | Path | ModelConfig | TaskModel,
        *,
        tokenizer: Splitter | None = None,
        colour: bool | None = None,
    ):
        self.tokenizer = tokenizer
        self.colour = sys.stdout.isatty() if colour is None else colour
        if isinstance(model, (str, Path)):
            self.config = AutoConfig.from_pretrained(model)
            file = Path(model) / "tokenizer.json"
            if tokenizer is None and file.is_file():
                self.tokenizer = _FromFile(file)
        else:
            self.config = model.config if isinstance(model, TaskModel) else model

    def __call__(
        self,
        text: str | Numbers,
        *,
        attention_mask: Numbers | None = None,
        cu_seqlens: Numbers | None = None,
    ) -> None:
        """Print the picture; arguments as in ``picture``."""
        print(self.picture(text, attention_mask=attention_mask, cu_seqlens=cu_seqlens))

    def picture(
        self,
        text: str | Numbers,
        *,
        attention_mask: Numbers | None = None,
        cu_seqlens: Numbers | None = None,
    ) -> str:
        """The picture of a text, or of token ids (T).

        ``attention_mask`` (T) is 0 at padding, which sees and is seen by none. ``cu_seqlens`` (documents + 1)
        are the borders of documents packed into one row. ``ConfigError`` for a text that nothing can split.
        """
        names = self._names(text)
        mask = None if attention_mask is None else torch.as_tensor(attention_mask).reshape(1, -1)
        borders = None if cu_seqlens is None else torch.as_tensor(cu_seqlens).flatten()
        parts = [f"Attention of {self.config.model_type}: {SEEN} is seen, {HIDDEN} is not"]
        kinds = self._kinds()
        for window, layers in kinds.items():
            where = f"In layers {', '.join(map(str, layers))}" if len(kinds) > 1 else "In every layer"
            seen = _seen(len(names), mask, borders, causal=self._causal, window=window)
            parts += ["", f"{where} a token sees {self._sight(window)}:", *_rows(names, seen, self.colour)]
        return "\n".join(parts)

    def _names(self, text: str | Numbers) -> list[str]:
        if isinstance(text, str):
            if self.tokenizer is None:
                raise ConfigError(
                    "text: there is no tokenizer to split it, give AttentionMaskVisualizer one, or token ids"
                )
            text = self.tokenizer(text)["input_ids"]
        ids = torch.as_tensor(text).flatten().tolist()
        if not ids:
            raise ConfigError("text: holds no token, so there is nothing to show")
        return [str(i) for i in ids] if self.tokenizer is None else self.tokenizer.convert_ids_to_tokens(ids)

    @property
    def _causal(self) -> bool:
        """Whether no token sees a later one: in what is set to be a decoder, or never is anything else."""
        decoder = getattr(self.config, "is_decoder", None)
        return "causal_lm" in family_table(self.config.model_type).TASKS if decoder is None else decoder

    def _kinds(self) -> dict[int | None, list[int]]:
        """The layers of each window; None for those that look back without a limit."""
        depth = self.config.num_hidden_layers  # type: ignore[attr-defined]  # every family has it
        kinds: dict[int | None, list[int]] = {}
        for layer, window in enumerate(getattr(self.config, "windows", (None,) * depth)):
            kinds.setdefault(window, []).append(layer)
        return kinds

    def _sight(self, window: int | None) -> str:
        if window is not None:
            return f"the last {window} tokens, itself included"
        return "itself and what is before it" if self._causal else "all tokens"


def _seen(
    tokens: int, mask: Tensor | None, cu_seqlens: Tensor | None, *, causal: bool, window: int | None
) -> Tensor:
    """(T, T) true where a row's token sees a column's."""
    row = torch.empty(1, tokens, 0)
    visibility = Visibility.of(row, mask, cu_seqlens, causal=causal, window=window)
    seen = visibility.mask[0, 0]
    if mask is not None:  # how padding is computed is no one's concern
        seen = seen & mask.bool() & mask.bool().T
    return seen


def _rows(names: list[str], seen: Tensor, colour: bool) -> list[str]:
    """A picture's lines: the columns' numbers, read downwards, and each token's name, number and squares."""
    width, digits = max(len(repr(name)) for name in names), len(str(len(names) - 1))
    numbers = [str(column).rjust(digits) for column in range(len(names))]
    margin = " " * (width + digits + 3)
    lines = [f"{margin}{' '.join(number[digit] for number in numbers)}" for digit in range(digits)]
    for row, name in enumerate(names):
        squares = [SEEN if cell else HIDDEN for cell in seen[row].tolist()]
        if colour:
            squares[row] = f"{GREEN}{squares[row]}{PLAIN}"
        lines.append(f"{name!r:<{width}} {numbers[row]}  {' '.join(squares)}")
    return lines


class _FromFile:
    """The tokenizer of a ``tokenizer.json``, as it is."""

    def __init__(self, file: Path):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(file))

    def __call__(self, text: str) -> Mapping[str, Any]:
        return {"input_ids": self.tokenizer.encode(text).ids}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(self.tokenizer.id_to_token(i)) for i in ids]
