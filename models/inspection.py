"""What can be asked of a model that is made: its size, types, parts and parameters.

Source of names and behaviour: reference page main_classes/model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from conf.errors import ConfigError
from models.heads.head import Head

# Where the parts of a backbone with several are, by what they read; first the ones for text.
ENCODERS = {
    None: ("text_encoder", "encoder"),
    "image": ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower"),
    "video": ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower"),
    "audio": ("audio_tower", "audio_encoder", "speech_encoder"),
}
DECODERS = ("language_model", "text_model", "decoder", "text_decoder")


class Inspection(nn.Module):
    """What a ``TaskModel`` tells of itself."""

    main_input_name: ClassVar[str] = "input_ids"  # what a batch's size is counted in
    framework: ClassVar[str] = "pt"

    backbone: nn.Module
    head: Head | None

    @property
    def base_model(self) -> nn.Module:
        """The backbone."""
        return self.backbone

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies; a model is on one device."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first floating-point parameter."""
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def can_generate(self) -> bool:
        """Whether the model scores next tokens."""
        return self.head is not None and self.head.name.endswith("causal_lm")

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model holds, shared ones once.

        ``only_trainable`` leaves out frozen ones, ``exclude_embeddings`` those of embedding tables, and with
        them those of a head that shares one.
        """
        tables = {id(m.weight) for m in self.modules() if exclude_embeddings and isinstance(m, nn.Embedding)}
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if id(parameter) not in tables and (parameter.requires_grad or not only_trainable)
        )

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """About how many operations forward and backward pass take; 0 for inputs without ``input_ids``."""
        tokens = inputs.get(self.main_input_name)
        return 0 if tokens is None else tokens.numel() * self.flops_per_token()

    def flops_per_token(self) -> int:
        """About how many operations both passes take for a token: 6 x parameters but embeddings.

        A backbone whose tokens do not meet each parameter once says so by ``extra_uses``: by how much those
        that a token meets exceed those that there are. Source: Kaplan et al., 2020, section 2.1.
        """
        met = self.num_parameters(exclude_embeddings=True) + getattr(self.backbone, "extra_uses", 0)
        return 6 * met

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, shared ones once, and of the buffers."""
        size = sum(parameter.nbytes for parameter in self.parameters())
        return size + sum(buffer.nbytes for buffer in self.buffers()) if return_buffers else size

    def get_parameter_or_buffer(self, target: str) -> Tensor:
        """The parameter or buffer of this name in the model; ``AttributeError`` if there is none."""
        try:
            return self.get_parameter(target)
        except AttributeError:
            return self.get_buffer(target)

    def named_non_persistent_buffers(
        self, recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """The buffers that are computed and not saved."""
        for name, tensor in self.named_buffers(recurse=recurse, remove_duplicate=remove_duplicate):
            owner, _, attribute = name.rpartition(".")
            if attribute in self.get_submodule(owner)._non_persistent_buffers_set:
                yield name, tensor

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The part that reads text, or with ``modality`` images, video or audio; else the model itself."""
        name = _part(self.backbone, _encoders(modality))
        return self if name is None else getattr(self.backbone, name)

    def set_encoder(self, encoder: nn.Module, modality: str | None = None) -> None:
        """Exchange what ``get_encoder`` gives; ``ConfigError`` for a model that has no such part."""
        _exchange(self.backbone, _encoders(modality), encoder, "set_encoder")

    def get_decoder(self) -> nn.Module:
        """The part that writes text: a backbone's own, else the backbone."""
        name = _part(self.backbone, DECODERS)
        return self.backbone if name is None else getattr(self.backbone, name)

    def set_decoder(self, decoder: nn.Module) -> None:
        """Exchange what ``get_decoder`` gives."""
        if _part(self.backbone, DECODERS) is None:
            self.backbone = decoder
        else:
            _exchange(self.backbone, DECODERS, decoder, "set_decoder")


def _encoders(modality: str | None) -> tuple[str, ...]:
    if modality not in ENCODERS:
        raise ConfigError(
            f"modality: there is no {modality!r}; known are audio, image, video, and None for text"
        )
    return ENCODERS[modality]


def _part(backbone: nn.Module, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if hasattr(backbone, name)), None)


def _exchange(backbone: nn.Module, names: tuple[str, ...], new: nn.Module, where: str) -> None:
    if (name := _part(backbone, names)) is None:
        raise ConfigError(f"{where}: a {type(backbone).__name__} has no such part; it would be {names[-1]}")
    setattr(backbone, name, new)
