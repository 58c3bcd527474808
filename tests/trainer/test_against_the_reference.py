"""The reference's Trainer as the oracle: the same losses, rates and weights on the same model and data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.utils.data import Sampler

from models import AutoModelForCausalLM
from tests.trainer.programs import LLAMA, VOCABULARY, arguments, distance, tokens, weights
from trainer import Trainer
from trainer.data.batches import Schedule

TOLERANCE = 1e-5
SEED = 42
STEPS = 5  # 13 rows in steps of 6: the third is short, and ends the epoch

COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 6,
    "max_steps": STEPS,
    "logging_steps": 1,
    "lr_scheduler_type": "constant",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": SEED,
}
ACCUMULATION = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": ACCUMULATION,
    "clipping": {"max_grad_norm": 0.05},
    "not clipped": {"max_grad_norm": 0.0},
    "label smoothing": {"label_smoothing_factor": 0.2},
    "label smoothing, accumulation": {"label_smoothing_factor": 0.2, **ACCUMULATION},
    "weight decay": {"weight_decay": 0.5},
    "linear": {"lr_scheduler_type": "linear", "warmup_steps": 2},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 0.3},
    "NEFTune": {"neftune_noise_alpha": 5.0, **ACCUMULATION},
    "all": {
        **ACCUMULATION,
        "max_grad_norm": 0.05,
        "label_smoothing_factor": 0.1,
        "weight_decay": 0.1,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.5,
        "neftune_noise_alpha": 5.0,
    },
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optim": "adamw_torch", "learning_rate": 3e-3, "adam_epsilon": 1e-6},
    "sgd": {"optim": "sgd", "learning_rate": 0.3},
    "adafactor": {"optim": "adafactor", "learning_rate": 1e-2},
}
WARM = {"warmup_steps": 3}
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": WARM,
    "cosine": {**WARM, "lr_scheduler_kwargs": {"num_cycles": 1.5}},
    "cosine_with_restarts": {**WARM, "lr_scheduler_kwargs": {"num_cycles": 2}},
    "cosine_with_min_lr": {**WARM, "lr_scheduler_kwargs": {"min_lr": 1e-3}},
    "cosine_warmup_with_min_lr": {
        **WARM,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    },
    "polynomial": {**WARM, "lr_scheduler_kwargs": {"power": 2.0, "lr_end": 1e-4}},
    "constant": {},
    "constant_with_warmup": WARM,
    "inverse_sqrt": {**WARM, "lr_scheduler_kwargs": {"timescale": 4}},
    "warmup_stable_decay": {**WARM, "lr_scheduler_kwargs": {"num_decay_steps": 4, "min_lr_ratio": 0.1}},
    "reduce_lr_on_plateau": {
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "threshold": 0.1},
        "eval_strategy": "steps",
        "eval_steps": 2,
        "per_device_eval_batch_size": 16,
    },
}


class Reseed(transformers.TrainerCallback):
    """Written for the reference: both trainers draw the same noise in each step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(1000 + state.global_step)


class OurOrder(Sampler[int]):
    """The rows in the order in which this library takes them, one epoch an iteration."""

    def __init__(self, num_rows: int, rows_per_step: int):
        shares = {"rank": 0, "world_size": 1, "shuffle": True, "drop_last": False}
        self.schedule = Schedule(
            num_rows, seed=SEED, per_device_batch_size=rows_per_step, accumulation=1, **shares
        )
        self.epoch = -1

    def __len__(self) -> int:
        return self.schedule.num_rows

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        per_epoch = self.schedule.steps_per_epoch
        for step in range(self.epoch * per_epoch, (self.epoch + 1) * per_epoch):
            yield from self.schedule.step_rows(step).tolist()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training came to."""

    losses: list[float]
    rates: list[float]
    norms: list[float]
    weights: dict[str, Tensor]


class Oracle(transformers.Trainer):
    """The reference, in our order and with the loss of each step kept unrounded."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return OurOrder(len(self.train_dataset), rows)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.seen = getattr(self, "seen", {})
        step = self.state.global_step
        self.seen[step] = self.seen.get(step, 0.0) + loss.item()
        return loss


def by_the_reference(model: nn.Module, rows: list[Any], options: dict[str, Any]) -> Outcome:
    args = transformers.TrainingArguments(
        output_dir=options.pop("folder"), report_to="none", **{**COMMON, **options}
    )
    model = copy.deepcopy(model)
    looked_at = tokens(5, seed=1) if options.get("eval_strategy") else None
    trainer = Oracle(model=model, args=args, train_dataset=rows, eval_dataset=looked_at, callbacks=[Reseed])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    return Outcome(
        losses=list(trainer.seen.values()),
        rates=[line["learning_rate"] for line in logged],
        norms=[line["grad_norm"] for line in logged],
        weights=weights(model),
    )


def by_ours(model: nn.Module, rows: list[Any], options: dict[str, Any]) -> tuple[Outcome, nn.Module]:
    args = arguments(options.pop("folder"), **{**COMMON, **options})
    trainer = Trainer(
        model=copy.deepcopy(model),
        args=args,
        train_dataset=rows,
        eval_dataset=tokens(5, seed=1) if options.get("eval_strategy") else None,
        callbacks=[Reseed],  # type: ignore[list-item]
    )
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    outcome = Outcome(
        losses=[line["loss"] for line in logged],
        rates=[line["learning_rate"] for line in logged],
        norms=[line["grad_norm"] for line in logged],
        weights=weights(trainer.model),
    )
    return outcome, trainer.model


def agree(ours: Outcome, theirs: Outcome) -> None:
    assert ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE)
    assert ours.rates == pytest.approx(theirs.rates, rel=TOLERANCE)
    assert ours.norms == pytest.approx(theirs.norms, rel=10 * TOLERANCE)
    assert distance(theirs.weights, ours.weights) < TOLERANCE


def without(outcome: Outcome, name: str) -> Outcome:
    """An outcome without the weights of that name."""
    kept = {key: tensor for key, tensor in outcome.weights.items() if not key.endswith(name)}
    return Outcome(**{**vars(outcome), "weights": kept})


@pytest.fixture(scope="module")
def llama(quiet_reference: None) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    # Wide weights, so that losses differ from step to step; no key bias, whose gradient would be noise.
    config = transformers.LlamaConfig(**LLAMA, initializer_range=0.3, pad_token_id=0)
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def own_llama(llama: transformers.LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def oracle(
    llama: transformers.LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Outcome]:
    """The reference's outcome for an optimizer and options, computed once for both of our models."""
    known: dict[tuple[str, str], Outcome] = {}

    def outcome(optimizer: str, options: str) -> Outcome:
        if (optimizer, options) not in known:
            chosen = {**OPTIMIZERS[optimizer], **OPTIONS[options]}
            chosen["folder"] = str(tmp_path_factory.mktemp("oracle"))
            known[optimizer, options] = by_the_reference(llama, tokens(), chosen)
        return known[optimizer, options]

    return outcome


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_a_llama_trains_as_in_the_reference(
    whose: str,
    optimizer: str,
    options: str,
    llama: transformers.LlamaForCausalLM,
    own_llama: nn.Module,
    oracle: Callable[[str, str], Outcome],
    tmp_path: Path,
) -> None:
    theirs = oracle(optimizer, options)
    chosen = {**OPTIMIZERS[optimizer], **OPTIONS[options], "folder": str(tmp_path / "run")}
    ours, model = by_ours(llama if whose == "theirs" else own_llama, tokens(), chosen)
    if whose == "ours":  # its parameters in the reference's names
        ours = Outcome(**{**vars(ours), "weights": _in_reference_names(model, llama)})
    agree(ours, theirs)
    assert len(set(theirs.losses)) == STEPS
    assert distance(weights(llama), ours.weights) > 1e-4, "it was trained"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_each_schedule_trains_as_in_the_reference(
    optimizer: str, schedule: str, llama: transformers.LlamaForCausalLM, tmp_path: Path
) -> None:
    chosen = {**OPTIMIZERS[optimizer], "max_steps": 12, **SCHEDULES[schedule], "lr_scheduler_type": schedule}
    theirs = by_the_reference(llama, tokens(), {**chosen, "folder": str(tmp_path / "theirs")})
    ours, _ = by_ours(llama, tokens(), {**chosen, "folder": str(tmp_path / "ours")})
    agree(ours, theirs)
    assert len(set(ours.rates)) > 1 or schedule == "constant", "the rate moves"


def _in_reference_names(model: Any, llama: nn.Module) -> dict[str, Tensor]:
    names = {
        name: name.replace("backbone.", "model.").replace("head.", "lm_head.") for name in model.state_dict()
    }
    found = {names[name]: tensor for name, tensor in weights(model).items()}
    return {name: found[name] for name in llama.state_dict()}


@pytest.mark.parametrize("nothing", [None, 0.0])
def test_no_clipping_at_none_or_0(
    nothing: float | None,
    llama: transformers.LlamaForCausalLM,
    oracle: Callable[[str, str], Outcome],
    tmp_path: Path,
) -> None:
    chosen = {**OPTIMIZERS["sgd"], "max_grad_norm": nothing, "folder": str(tmp_path / "run")}
    ours, _ = by_ours(llama, tokens(), chosen)
    agree(ours, oracle("sgd", "not clipped"))
    assert ours.norms[0] > 1.0, "clipping at the usual 1 would change it"
    assert distance(oracle("sgd", "plain").weights, ours.weights) > 1e-3


# -- a classifier ------------------------------------------------------------------------------------


def sentences(count: int = 13) -> list[dict[str, Any]]:
    """Rows of one length, with a class each."""
    return [{"input_ids": row["input_ids"], "labels": int(row["input_ids"][0]) % 3} for row in tokens(count)]


@pytest.fixture(scope="module")
def bert() -> transformers.BertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, max_position_embeddings=16, num_labels=3, initializer_range=0.3, **shape
    )
    assert config.hidden_dropout_prob == 0.1  # drawn alike by both
    return transformers.BertForSequenceClassification(config)


@pytest.mark.parametrize(
    "options", ["plain", "accumulation", "label smoothing, accumulation", "weight decay", "all"]
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_classifier_trains_as_in_the_reference(
    optimizer: str, options: str, bert: transformers.BertForSequenceClassification, tmp_path: Path
) -> None:
    chosen = {**OPTIMIZERS[optimizer], **OPTIONS[options]}
    if optimizer == "sgd":
        chosen["learning_rate"] = 0.03
    theirs = by_the_reference(bert, sentences(), {**chosen, "folder": str(tmp_path / "theirs")})
    ours, _ = by_ours(bert, sentences(), {**chosen, "folder": str(tmp_path / "ours")})
    if optimizer == "adafactor":  # a key's bias has gradient 0, whose rounding it scales up to whole steps
        ours, theirs = without(ours, "key.bias"), without(theirs, "key.bias")
    agree(ours, theirs)


# -- evaluation --------------------------------------------------------------------------------------


def test_the_evaluation_loss_is_the_mean_over_all_labels(
    llama: transformers.LlamaForCausalLM, own_llama: nn.Module, tmp_path: Path
) -> None:
    rows = tokens(7)
    total = count = 0.0
    with torch.no_grad():
        for row in rows:
            scores = llama(row["input_ids"][None]).logits[0, :-1]
            total += F.cross_entropy(scores, row["labels"][1:], reduction="sum").item()
            count += int((row["labels"][1:] != -100).sum())
    for model in (llama, own_llama):
        args = arguments(tmp_path, per_device_eval_batch_size=3)
        found = Trainer(model=model, args=args, eval_dataset=rows).evaluate()
        assert found["eval_loss"] == pytest.approx(total / count, rel=TOLERANCE)
    theirs = transformers.Trainer(
        model=llama,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, per_device_eval_batch_size=3
        ),
        eval_dataset=rows,
    )
    assert theirs.evaluate()["eval_loss"] != pytest.approx(total / count, rel=TOLERANCE), "a mean of means"


def test_predictions_are_those_of_the_reference(
    bert: transformers.BertForSequenceClassification, tmp_path: Path
) -> None:
    rows = sentences(7)
    ours = Trainer(model=bert, args=arguments(tmp_path, per_device_eval_batch_size=3)).predict(rows)  # type: ignore[arg-type]
    theirs = transformers.Trainer(
        model=bert,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, per_device_eval_batch_size=3
        ),
    ).predict(rows)
    assert ours.predictions == pytest.approx(theirs.predictions, abs=1e-6)
    assert ours.label_ids.tolist() == theirs.label_ids.tolist()
    assert ours.metrics.keys() >= {"test_loss", "test_runtime", "test_samples_per_second"}
