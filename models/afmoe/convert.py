"""What an AFMoE can be trained for, and how the names of its parameters in checkpoints differ from ours."""

from __future__ import annotations

from models.tasks import Task
from models.weights.conversion import Concatenate, MergeModulelist, WeightConverter

TASKS = {
    None: Task(architecture="AfmoeModel"),
    "causal_lm": Task(architecture="AfmoeForCausalLM", head="causal_lm", keys={"weight": "lm_head.weight"}),
}

PREFIX = "model."  # of the backbone's parameters, under a head

# (our name or prefix, the checkpoint's): nothing beyond the prefix and the heads.
RENAMES: tuple[tuple[str, str], ...] = ()

# Keys of older files that hold no weight: frequencies are computed.
IGNORED = (r".*\.rotary_emb\.inv_freq",)

# Files hold each expert's weights; a layer's experts are one tensor of each kind here.
CONVERTERS = (
    WeightConverter(
        ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"),
        "mlp.experts.gate_up_proj",
        (MergeModulelist(dim=0), Concatenate(dim=1)),
    ),
    WeightConverter("mlp.experts.*.down_proj.weight", "mlp.experts.down_proj", (MergeModulelist(dim=0),)),
)
