"""What an XLM-RoBERTa can be trained for, and how its parameters' names in checkpoints differ from ours."""

from __future__ import annotations

from models.tasks import Task

TASKS = {
    None: Task(architecture="XLMRobertaModel"),
    "masked_lm": Task(
        architecture="XLMRobertaForMaskedLM",
        head="masked_lm",
        keys={
            "transform.dense.": "lm_head.dense.",
            "transform.LayerNorm.": "lm_head.layer_norm.",
            "decoder.": "lm_head.decoder.",
            "bias": "lm_head.bias",
        },
        backbone={"add_pooling_layer": False},
    ),
}

PREFIX = "roberta."  # of the backbone's parameters, under a head

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys that hold no weight, if a model has no place for them: positions are counted, and of the two biases of
# the words, which files may both have, a model has one.
IGNORED = (r"(roberta\.)?embeddings\.position_ids", r"lm_head\.(decoder\.)?bias")

# Of the backbone, what files of another task may lack, by our names: masked words are told without a pooler,
# and an encoder that becomes a decoder has never looked at another.
DRAWN_IF_MISSING = (r"backbone\.pooler\.", r"backbone\.encoder\.layer\.\d+\.crossattention\.")
