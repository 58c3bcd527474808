"""What a Llama can be trained for, and how the names of its parameters in checkpoints differ from ours."""

from __future__ import annotations

from models.tasks import Task

TASKS = {
    None: Task(architecture="LlamaModel"),
    "causal_lm": Task(architecture="LlamaForCausalLM", head="causal_lm", keys={"weight": "lm_head.weight"}),
    "sequence_classification": Task(
        architecture="LlamaForSequenceClassification",
        head="sequence_classification",
        keys={"weight": "score.weight"},
    ),
}

PREFIX = "model."  # of the backbone's parameters, under a head

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys of older files that hold no weight: frequencies are computed, and causal masks were once saved.
IGNORED = (r".*\.rotary_emb\.inv_freq", r".*\.self_attn\.(masked_)?bias")
