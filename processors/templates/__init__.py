"""Chat templates by name: the Jinja files here, and the special tokens a new tokenizer needs for each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from conf.errors import ConfigError
from conf.plugins import nearest


@dataclass(frozen=True, kw_only=True)
class Kit:
    """The special tokens of a tokenizer made for a template; ``markers`` are spelled out in it."""

    eos: str
    pad: str
    bos: str | None = None
    markers: tuple[str, ...] = ()

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """All of them, in the order of their ids."""
        return tuple(dict.fromkeys(token for token in (self.pad, self.bos, *self.markers, self.eos) if token))


PLAIN = Kit(eos="<|endoftext|>", pad="<|pad|>")
TEMPLATES = {
    "chatml": Kit(eos="<|im_end|>", pad="<|endoftext|>", markers=("<|im_start|>", "<|im_end|>")),
    "llama3": Kit(
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        markers=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "llama2": Kit(bos="<s>", eos="</s>", pad="<pad>"),
    "mistral": Kit(bos="<s>", eos="</s>", pad="<pad>", markers=("[INST]", "[/INST]")),
    "zephyr": Kit(eos="</s>", pad="<pad>", markers=("<|system|>", "<|user|>", "<|assistant|>")),
    "instruction": Kit(eos="</s>", pad="<pad>"),
}


def known(name: str) -> str:
    """``name`` itself; ``ConfigError`` with the nearest name when there is no such template."""
    if name not in TEMPLATES:
        raise ConfigError(f"processor.chat_template: there is no {name!r}; {nearest(name, TEMPLATES)}")
    return name


def source(template: str) -> str:
    """The Jinja text of a template given by its name or as the path of a ``.jinja`` file."""
    if template.endswith(".jinja"):
        path = Path(template)
        if not path.is_file():
            raise ConfigError(f"processor.chat_template: there is no file {template!r}.")
        return path.read_text(encoding="utf-8")
    return files(__package__).joinpath(f"{known(template)}.jinja").read_text(encoding="utf-8")
