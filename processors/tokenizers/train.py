"""Training a tokenizer on the run's own texts."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from conf.errors import ConfigError
from processors import templates
from processors.options import TrainOptions
from processors.tokenizers.tokenizer import Tokenizer


def train_bpe(texts: Iterable[str], options: TrainOptions, chat_template: str | None = None) -> Tokenizer:
    """Byte-level BPE over ``texts``; the same texts and options give the same tokenizer, byte for byte.

    Any text can be encoded and comes back exactly. Special tokens (the first ids) are those of the named
    ``chat_template``, which goes along; its end-of-turn token is the EOS token, so that generation stops
    there. Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """
    kit = templates.TEMPLATES[templates.known(chat_template)] if chat_template else templates.PLAIN
    special = kit.special_tokens
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if options.vocab_size < len(alphabet) + len(special):
        raise ConfigError(
            f"processor.tokenizer.vocab_size: {options.vocab_size} is too small; the {len(alphabet)} bytes "
            f"and {len(special)} special tokens already need {len(alphabet) + len(special)}."
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = _post_processor(kit)
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=list(special),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    roles = {"bos_token": kit.bos, "eos_token": kit.eos, "pad_token": kit.pad}
    named = {role: token for role, token in roles.items() if token}
    return Tokenizer(
        backend,
        special_tokens=named,
        extra_special_tokens=[token for token in special if token not in named.values()],
        chat_templates={"default": templates.source(chat_template)} if chat_template else None,
    )


def _post_processor(kit: templates.Kit) -> processors.PostProcessor:
    """Puts BOS, where there is one, before each text; offsets keep the leading space of a word."""
    byte_level = processors.ByteLevel(trim_offsets=False)
    if kit.bos is None:
        return byte_level
    bos_id = kit.special_tokens.index(kit.bos)
    begin = processors.TemplateProcessing(
        single=f"{kit.bos} $A", pair=f"{kit.bos} $A $B", special_tokens=[(kit.bos, bos_id)]
    )
    return processors.Sequence([byte_level, begin])
