"""What an Apertus can be trained for, and how the names of its parameters in checkpoints differ from ours."""

from __future__ import annotations

from models.tasks import Task

TASKS = {
    None: Task(architecture="ApertusModel"),
    "causal_lm": Task(architecture="ApertusForCausalLM", head="causal_lm", keys={"weight": "lm_head.weight"}),
    "token_classification": Task(
        architecture="ApertusForTokenClassification",
        head="token_classification",
        keys={"classifier.": "score."},
    ),
}

PREFIX = "model."  # of the backbone's parameters, under a head

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys of older files that hold no weight: frequencies are computed.
IGNORED = (r".*\.rotary_emb\.inv_freq",)
