"""Which parameters are trained together: rates and decays by name and layer, roles, and no group too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.trainer_utils import check_target_module_exists

from conf.errors import ConfigError
from models import AutoModelForCausalLM, AutoModelForSequenceClassification, build_model
from models.llama.config import LlamaConfig
from models.weights import checkpoint_names
from trainer.optimizers.groups import parameter_groups
from trainer.optimizers.options import AdamW, Muon, OptimizerOptions, ParameterGroup

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
    "mlp_bias": True,
}
RATE = 1e-3


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), seed=0)


@pytest.fixture(scope="module")
def tied() -> nn.Module:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, tie_word_embeddings=True), seed=0)


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))


def grouped(model: nn.Module, options: OptimizerOptions) -> list[dict[str, Any]]:
    """The groups, after a check of what holds for all: each parameter is in one, and no two are alike."""
    names = checkpoint_names(model)
    groups = parameter_groups(model, names, options)
    by_key = {names[name]: p for name, p in model.named_parameters() if p.requires_grad}
    found = [key for group in groups for key in group["param_names"]]
    assert sorted(found) == sorted(by_key)
    kinds = []
    for group in groups:
        assert all(by_key[key] is p for key, p in zip(group["param_names"], group["params"], strict=True))
        assert group.keys() - {"lr", "role"} == {"params", "param_names", "weight_decay"}
        assert group.get("lr") != options.learning_rate, "said only where it differs"
        kinds.append((group.get("lr"), group["weight_decay"], group.get("role")))
    assert len(set(kinds)) == len(kinds), "groups that do not differ are one"
    return groups


def rates(groups: list[dict[str, Any]]) -> dict[str, float]:
    return {name: group.get("lr", RATE) for group in groups for name in group["param_names"]}


def decays(groups: list[dict[str, Any]]) -> dict[str, float]:
    return {name: group["weight_decay"] for group in groups for name in group["param_names"]}


def with_role(groups: list[dict[str, Any]], role: str) -> set[str]:
    return {name for group in groups if group.get("role") == role for name in group["param_names"]}


# -- weight decay ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "tied", "classifier"])
def test_decay_is_for_what_the_reference_s_trainer_says(kind: str) -> None:
    given = {**SMALL, "tie_word_embeddings": kind == "tied", "num_labels": 3}
    ours, theirs = {
        "classifier": (AutoModelForSequenceClassification, transformers.LlamaForSequenceClassification),
    }.get(kind, (AutoModelForCausalLM, transformers.LlamaForCausalLM))
    oracle = theirs(transformers.LlamaConfig(**given))
    wanted = set(transformers.Trainer.get_decay_parameter_names(None, oracle))
    mine = ours.from_config(LlamaConfig(**given), seed=0)
    decaying, others = grouped(mine, AdamW(weight_decay=0.1))
    trained = {name for name, _ in oracle.named_parameters()}
    assert {*decaying["param_names"]} == wanted & trained
    assert {*others["param_names"]} == trained - wanted
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_without_differences_there_is_one_group(model: nn.Module) -> None:
    (group,) = grouped(model, AdamW())
    assert group["weight_decay"] == 0.0
    assert group.keys() == {"params", "param_names", "weight_decay"}


def test_frozen_parameters_are_left_out_and_shared_ones_taken_once(tied: nn.Module) -> None:
    names = [name for group in grouped(tied, AdamW(weight_decay=0.1)) for name in group["param_names"]]
    assert names.count("model.embed_tokens.weight") == 1
    assert "lm_head.weight" not in names
    classifier = AutoModelForSequenceClassification.from_config(LlamaConfig(**SMALL, num_labels=3), seed=0)
    classifier.backbone.requires_grad_(False)
    (group,) = grouped(classifier, AdamW(weight_decay=0.1))
    assert group["param_names"] == ["score.weight"]
    classifier.requires_grad_(False)
    assert parameter_groups(classifier, checkpoint_names(classifier), AdamW()) == []


# -- by name ---------------------------------------------------------------------------------------


def test_the_first_group_that_matches_holds(model: nn.Module) -> None:
    options = AdamW(
        learning_rate=RATE,
        weight_decay=0.1,
        groups={
            "head": ParameterGroup(pattern=r"lm_head\.weight", learning_rate=5e-3),
            "first": ParameterGroup(pattern=r".*\.layers\.0\..*", learning_rate=1e-4, weight_decay=0.0),
            "norms": ParameterGroup(pattern=r".*norm\.weight", weight_decay=0.3),
        },
    )
    groups = grouped(model, options)
    rate, decay = rates(groups), decays(groups)
    assert (rate["lm_head.weight"], decay["lm_head.weight"]) == (5e-3, 0.1)
    for name in rate:
        if ".layers.0." in name:
            assert (rate[name], decay[name]) == (1e-4, 0.0), name
        elif name != "lm_head.weight":
            assert rate[name] == RATE, name
            assert decay[name] == (0.3 if "norm" in name else 0.0 if "bias" in name else 0.1), name
    assert "lr" not in groups[0], "the rate that is logged is the base rate"


def test_groups_resume(resumes: Callable[..., Any]) -> None:
    resumed = resumes(
        "training.max_steps=6",
        "checkpoint.save_steps=3",
        "optimizer.layer_decay=0.5",
        "optimizer.weight_decay=0.1",
        r"optimizer.groups.norms={pattern: .*norm\.weight, learning_rate: 0.01, weight_decay: 0.2}",
    )
    (own,) = [group for group in resumed.run.optimizer.param_groups if group["initial_lr"] == 0.01]
    assert own["weight_decay"] == 0.2
    assert all("norm" in name for name in own["param_names"])


def test_a_rate_of_ones_own_is_not_scaled(model: nn.Module) -> None:
    own = {"mine": ParameterGroup(pattern=r".*q_proj\.weight", learning_rate=0.5)}
    rate = rates(grouped(model, AdamW(learning_rate=RATE, layer_decay=0.5, groups=own)))
    assert {value for name, value in rate.items() if name.endswith("q_proj.weight")} == {0.5}
    assert rate["model.layers.0.self_attn.k_proj.weight"] == RATE * 0.5**3


# -- by layer --------------------------------------------------------------------------------------


def test_a_layer_learns_slower_than_the_one_above_it(model: nn.Module) -> None:
    groups = grouped(model, AdamW(learning_rate=RATE, layer_decay=0.5, weight_decay=0.1))
    for name, rate in rates(groups).items():
        if "layers" in name:
            assert rate == RATE * 0.5 ** (3 - int(name.split(".")[2])), name
        else:
            embedding = name == "model.embed_tokens.weight"
            assert rate == (RATE * 0.5**4 if embedding else RATE), name
    assert len(groups) == 4 * 2 + 1, "two for the head's level and each layer, one for the embeddings"
    assert "lr" not in groups[0]


def test_a_table_that_is_also_the_head_is_an_embedding(tied: nn.Module) -> None:
    rate = rates(grouped(tied, AdamW(learning_rate=RATE, layer_decay=0.5)))
    assert rate["model.embed_tokens.weight"] == RATE * 0.5**4


@pytest.mark.parametrize(
    ("architecture", "levels"),
    [
        (
            transformers.BertForSequenceClassification(
                transformers.BertConfig(
                    vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2
                )
            ),
            {
                "bert.embeddings.LayerNorm.weight": 3,
                "bert.embeddings.position_embeddings.weight": 3,
                "bert.encoder.layer.0.output.dense.bias": 2,
                "bert.encoder.layer.1.output.dense.bias": 1,
                "bert.pooler.dense.weight": 0,
                "classifier.weight": 0,
            },
        ),
        (
            transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2)
            ),
            {
                "transformer.wte.weight": 3,
                "transformer.wpe.weight": 3,
                "transformer.h.0.ln_1.bias": 2,
                "transformer.h.1.mlp.c_fc.weight": 1,
                "transformer.ln_f.weight": 0,
            },
        ),
        (
            transformers.T5ForConditionalGeneration(
                transformers.T5Config(
                    vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=3, num_heads=2
                )
            ),
            {
                "shared.weight": 4,
                "encoder.block.0.layer.1.DenseReluDense.wi.weight": 2,
                "encoder.block.1.layer.0.SelfAttention.q.weight": 1,
                "decoder.block.0.layer.2.DenseReluDense.wo.weight": 3,
                "decoder.block.2.layer.0.SelfAttention.q.weight": 1,
                "decoder.final_layer_norm.weight": 0,
            },
        ),
    ],
    ids=["bert", "gpt2", "t5"],
)
def test_layers_are_found_by_the_names_of_other_models(
    architecture: nn.Module, levels: dict[str, int]
) -> None:
    names = {name: name for name, _ in architecture.named_parameters()}
    groups = parameter_groups(architecture, names, AdamW(learning_rate=RATE, layer_decay=0.5))
    rate = rates(groups)
    assert {name: rate[name] for name in levels} == {name: RATE * 0.5**n for name, n in levels.items()}


# -- adapters --------------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A layer with the parameters that PEFT gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
        self.lora_embedding_A = nn.ParameterDict({"default": nn.Parameter(torch.zeros(2, 4))})
        self.lora_embedding_B = nn.ParameterDict({"default": nn.Parameter(torch.zeros(4, 2))})


def test_second_matrices_of_adapters_learn_faster() -> None:
    model = nn.ModuleDict({"layer": Adapted()})
    names = {name: name for name, _ in model.named_parameters()}
    groups = parameter_groups(model, names, AdamW(learning_rate=RATE, loraplus_lr_ratio=16.0))
    assert rates(groups) == {
        "layer.lora_A.default.weight": RATE,
        "layer.lora_embedding_A.default": RATE,
        "layer.lora_B.default.weight": RATE * 16,
        "layer.lora_embedding_B.default": RATE * 16,
    }
    assert ["lr" in group for group in groups] == [False, True]


# -- roles -----------------------------------------------------------------------------------------


TARGETS: list[Any] = [
    "all-linear",
    "all_linear",
    r".*\.self_attn\..*",
    ("q_proj", "v_proj"),
    (r".*.attn.*", r".*.mlp.*"),
    ("model.layers.1.mlp.up_proj",),
    (r"model\.layers\.[02]\..*_proj", "lm_head"),
]


@pytest.mark.parametrize("wanted", TARGETS, ids=str)
def test_the_same_layers_are_targeted_as_in_the_reference(
    model: nn.Module, reference: nn.Module, wanted: Any
) -> None:
    every = isinstance(wanted, str) and wanted.replace("_", "-") == "all-linear"
    expected = {
        f"{name}.weight"
        for name, module in reference.named_modules()
        if isinstance(module, nn.Linear)
        if every or check_target_module_exists(wanted if isinstance(wanted, str) else [*wanted], name)
    }
    assert expected
    groups = grouped(model, Muon(weight_decay=0.1, optim_target_modules=wanted))
    assert with_role(groups, "targeted") == expected
    assert len(groups) == (3 if expected != {name for name in decays(groups) if decays(groups)[name]} else 2)


def test_muon_takes_all_linear_weights_but_the_head_s(model: nn.Module, tied: nn.Module) -> None:
    for made in (model, tied):
        groups = grouped(made, Muon())
        assert with_role(groups, "targeted") == {
            name for name in rates(groups) if "_proj.weight" in name and ".layers." in name
        }
    classifier = AutoModelForSequenceClassification.from_config(LlamaConfig(**SMALL, num_labels=3), seed=0)
    assert "score.weight" not in with_role(grouped(classifier, Muon()), "targeted")


@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "LlamaForSequenceClassification"])
def test_the_head_of_another_library_s_model_is_found(kind: str) -> None:
    made = getattr(transformers, kind)(transformers.LlamaConfig(**SMALL))
    names = {name: name for name, _ in made.named_parameters()}
    targeted = with_role(parameter_groups(made, names, Muon()), "targeted")
    assert targeted == {name for name in names if "_proj.weight" in name}


def test_a_table_that_is_also_the_head_is_never_targeted(tied: nn.Module) -> None:
    groups = grouped(tied, Muon(optim_target_modules="all-linear"))
    assert "model.embed_tokens.weight" not in with_role(groups, "targeted")


class Keeping(AdamW):
    """An optimizer that keeps the state of embeddings in another way."""

    keeps_embeddings = True  # type: ignore[assignment]


def test_embeddings_have_a_role_where_it_matters(model: nn.Module) -> None:
    groups = grouped(model, Keeping(weight_decay=0.1))
    assert with_role(groups, "embedding") == {"model.embed_tokens.weight"}
    assert len(groups) == 3
    assert with_role(grouped(model, AdamW()), "embedding") == set()


# -- errors, and models that have no weights yet ---------------------------------------------------


WRONG: list[tuple[OptimizerOptions, str]] = [
    (
        AdamW(groups={"head": ParameterGroup(pattern="lm_head", learning_rate=1.0)}),
        "optimizer.groups.head.pattern: 'lm_head' matches no whole name of a trained parameter; near are "
        "'lm_head.weight'.",
    ),
    (
        AdamW(groups={"q": ParameterGroup(pattern=r".*\.q_prj\.weight", learning_rate=1.0)}),
        r"optimizer.groups.q.pattern: '.*\\.q_prj\\.weight' matches no whole name of a trained parameter; "
        "near are 'model.layers.0.self_attn.q_proj.weight', 'model.layers.0.self_attn.q_proj.bias', "
        "'model.layers.1.self_attn.q_proj.weight'.",
    ),
    (
        AdamW(
            groups={
                "all": ParameterGroup(pattern=".*", weight_decay=0.1),
                "head": ParameterGroup(pattern=r"lm_head\.weight", learning_rate=1.0),
            }
        ),
        r"optimizer.groups.head.pattern: groups before it hold all that 'lm_head\\.weight' matches, and the "
        "first counts; put it before them, or leave it out.",
    ),
    (
        AdamW(loraplus_lr_ratio=16.0),
        "optimizer.loraplus_lr_ratio: the model has no second matrix of an adapter (lora_B) that is trained; "
        "leave it out.",
    ),
    (
        Muon(optim_target_modules="q_proj"),
        "optimizer.optim_target_modules: 'q_proj' matches no whole name of a linear layer; near are "
        "'model.layers.0.self_attn.q_proj', 'model.layers.1.self_attn.q_proj', "
        "'model.layers.2.self_attn.q_proj'.",
    ),
    (
        Muon(optim_target_modules=("up_proj", "lm_hed")),
        "optimizer.optim_target_modules: 'lm_hed' names no linear layer that is trained; near are 'lm_head'.",
    ),
    (
        Muon(optim_target_modules=("up_proj", "(")),
        "optimizer.optim_target_modules: '(' is no regular expression; missing ), unterminated subpattern at "
        "position 0.",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_what_would_do_nothing_is_refused(model: nn.Module, options: OptimizerOptions, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parameter_groups(model, checkpoint_names(model), options)
    assert raised.value.problems == (sentence,)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            AdamW(layer_decay=0.9),
            "optimizer.layer_decay: no parameter's name has the number of its layer, as in 'layers.3.'; "
            "leave it out, or give rates with optimizer.groups.",
        ),
        (
            Muon(),
            "optimizer.optim_target_modules: no linear layer of the model is trained; choose another "
            "optimizer.",
        ),
    ],
)
def test_a_model_without_layers_is_refused(options: OptimizerOptions, sentence: str) -> None:
    model = nn.ModuleDict({"table": nn.Embedding(4, 4), "head": nn.Linear(4, 2)})
    with pytest.raises(ConfigError) as raised:
        parameter_groups(model, {name: name for name, _ in model.named_parameters()}, options)
    assert raised.value.problems == (sentence,)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (
            lambda: ParameterGroup(pattern="("),
            "pattern: '(' is no regular expression; missing ), unterminated subpattern at position 0.",
        ),
        (
            lambda: ParameterGroup(pattern="x"),
            "learning_rate: neither it nor weight_decay is given; give what is to differ.",
        ),
        (
            lambda: ParameterGroup(pattern="x", weight_decay=-1.0),
            "weight_decay: 0 or more is wanted, -1.0 was given.",
        ),
        (lambda: AdamW(layer_decay=1.0), "layer_decay: between 0 and 1 is wanted, 1.0 was given."),
        (lambda: AdamW(loraplus_lr_ratio=0.0), "loraplus_lr_ratio: more than 0 is wanted, 0.0 was given."),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(made: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        made()
    assert str(raised.value) == sentence


def test_a_model_without_weights_has_the_same_groups(model: nn.Module) -> None:
    options = Muon(
        weight_decay=0.1,
        layer_decay=0.9,
        groups={"head": ParameterGroup(pattern=r"lm_head\.weight", learning_rate=1.0)},
    )
    shapes = build_model(LlamaConfig(**SMALL), "causal_lm", device="meta")
    found, wanted = grouped(shapes, options), grouped(model, options)
    assert all(parameter.is_meta for group in found for parameter in group["params"])
    strip = [
        [{key: value for key, value in g.items() if key != "params"} for g in gs] for gs in (found, wanted)
    ]
    assert strip[0] == strip[1]
