"""How our names of a Llama's parameters and those of Hugging Face checkpoints correspond, as data."""

from __future__ import annotations

PREFIX = "model."  # of the backbone's parameters, which otherwise have the same names

HEADS = {
    "causal_lm": {"weight": "lm_head.weight"},
    "sequence_classification": {"weight": "score.weight"},
}

ARCHITECTURES = {
    None: "LlamaModel",
    "causal_lm": "LlamaForCausalLM",
    "sequence_classification": "LlamaForSequenceClassification",
}

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys of older files that hold no weight: frequencies are computed, and causal masks were once saved.
IGNORED = (r".*\.rotary_emb\.inv_freq", r".*\.self_attn\.(masked_)?bias")
