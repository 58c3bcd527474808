"""Answers generated where predictions are made: what the model says itself, beside the scores of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.decode import decode_fields
from conf.errors import ConfigError
from models.task_model import TaskModel
from predictor.generate import Draw, generate
from processors import Tokenizer
from processors.rendering import stop_ids
from trainer.config import GenerationSection
from trainer.ranks.ranks import Ranks

DEFAULT_LENGTH = 20  # tokens in all, the reference's default of max_length
SAMPLING = ("temperature", "top_k", "top_p", "seed")
# Keys that say where the file comes from, and the token that begins an empty prompt: there is none here.
OF_THE_FILE = ("_", "transformers_version", "bos_token_id")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What a generation configuration may say here; names are the reference's.

    ``max_length`` counts the prompt, ``max_new_tokens`` does not and wins.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    num_beams: int = 1
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None


def generation_options(section: GenerationSection) -> GenerationOptions:
    """The options of ``generation.generation_config``, a JSON file, under those given by themselves.

    Raises ``ConfigError`` for a file that cannot be read, an unknown key, or beams, which need a search that
    this generation does not do.
    """
    values: dict[str, Any] = {}
    if section.generation_config is not None:
        values = dict(decode_fields(GenerationOptions, _read(section.generation_config), "generation_config"))
    if section.generation_max_length is not None:
        values |= {"max_length": section.generation_max_length, "max_new_tokens": None}
    if section.generation_num_beams is not None:
        values["num_beams"] = section.generation_num_beams
    return GenerationOptions(**values)


def _read(path: str) -> Mapping[str, Any]:
    file = Path(path) / "generation_config.json" if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"generation.generation_config: {file} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise ConfigError(f"generation.generation_config: {file} holds no JSON object.")
    return {key: value for key, value in content.items() if not key.startswith(OF_THE_FILE)}


def refuse_impossible(options: GenerationOptions) -> None:
    """``ConfigError`` for beams, for values that cannot be drawn with, and where nothing is drawn."""
    if options.num_beams != 1:
        raise ConfigError(
            f"generation.generation_num_beams: {options.num_beams} beams need a search that is not built; "
            "leave it out or at 1."
        )
    idle = [] if options.do_sample else [name for name in SAMPLING if getattr(options, name) is not None]
    if idle:
        raise ConfigError(
            f"generation.generation_config: {idle[0]} has no effect without do_sample: true; leave it out."
        )
    try:
        temperature = 1.0 if options.temperature is None else options.temperature
        Draw(temperature=temperature, top_k=options.top_k, top_p=options.top_p)
    except ValueError as error:
        raise ConfigError(f"generation.generation_config: {error}.") from None


def generate_batch(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    options: GenerationOptions,
    *,
    max_length: int = DEFAULT_LENGTH,
) -> Tensor:
    """Prompts (B, T), padded on the left, with what this library's model goes on with.

    ``max_length`` counts where the options do not say a length.
    """
    refuse_impossible(options)
    new = options.max_new_tokens
    if new is None:
        new = max(0, (options.max_length or max_length) - input_ids.shape[1])
    return generate(
        model,
        input_ids,
        attention_mask=attention_mask,
        max_new_tokens=new,
        do_sample=options.do_sample,
        eos_token_id=options.eos_token_id,
        pad_token_id=options.pad_token_id,
        **{name: getattr(options, name) for name in SAMPLING},
    )


class Answers:
    """Continues each document from where its first target stands; gives the prompt, the text and the target.

    Up to ``max_length`` tokens with the prompt, unless the generation's options say a length. How long a
    row's answer may be does not depend on the rows beside it.
    """

    def __init__(self, section: GenerationSection, tokenizer: Tokenizer, *, max_length: int):
        """Raises ``ConfigError`` for options that this generation does not have."""
        options = generation_options(section)
        refuse_impossible(options)
        ends = options.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(stop_ids(tokenizer) if ends is None else ends)
        pads = (options.pad_token_id, tokenizer.pad_token_id, 0)
        self.pad = next(token for token in pads if token is not None)
        self.options = replace(options, eos_token_id=tuple(self.ends), pad_token_id=self.pad)
        self.tokenizer, self.max_length = tokenizer, options.max_length or max_length

    def of(
        self, model: TaskModel, documents: Sequence[Mapping[str, np.ndarray]], ranks: Ranks
    ) -> list[dict[str, str]]:
        """``prompt``, ``generated`` and ``reference`` of each document, as text.

        Raises ``ConfigError`` where a prompt leaves no room for an answer.
        """
        starts = [int(np.argmax(document["loss_mask"])) or 1 for document in documents]
        room = [self._room(start) for start in starts]
        longest = max(starts)
        ids = torch.full((len(documents), longest), self.pad)
        mask = torch.zeros_like(ids)
        for row, (document, start) in enumerate(zip(documents, starts, strict=True)):
            ids[row, longest - start :] = torch.from_numpy(document["input_ids"][:start].astype(np.int64))
            mask[row, longest - start :] = 1
        options = replace(self.options, max_new_tokens=max(room))
        with ranks.autocast():
            out = generate_batch(model, ranks.to_device(ids), ranks.to_device(mask), options)
        answers = out[:, longest:].tolist()
        return [
            {
                "prompt": self._text(document["input_ids"][:start].tolist()),
                "generated": self._text(self._ended(answer[:tokens])),
                "reference": self._text(document["input_ids"][start:].tolist()),
            }
            for document, start, tokens, answer in zip(documents, starts, room, answers, strict=True)
        ]

    def _room(self, start: int) -> int:
        """How many tokens may follow a prompt of ``start`` tokens."""
        room = self.options.max_new_tokens or self.max_length - start
        if room < 1:
            raise ConfigError(
                f"generation.generation_max_length: {self.max_length} leaves no room after a prompt of "
                f"{start} tokens; give more, or leave it out."
            )
        return room

    def _ended(self, answer: list[int]) -> list[int]:
        """Up to the first end token; what follows is padding."""
        return next((answer[:i] for i, token in enumerate(answer) if token in self.ends), answer)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
