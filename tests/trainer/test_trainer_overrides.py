"""What a program overrides or hands over is what the loop does."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from collators.default import default_collator
from conf.errors import ConfigError
from models import AutoModelForCausalLM
from models.llama.config import LlamaConfig
from tests.trainer.programs import (
    LLAMA,
    Classifier,
    CountingClassifier,
    SizedStream,
    Stream,
    arguments,
    distance,
    losses,
    points,
    same,
    tokens,
    weights,
)
from trainer import Trainer

USUAL: dict[str, Any] = {"train_dataset": points()}


def run(kind: type[Trainer], folder: Path, model: nn.Module | None = None, **given: Any) -> Trainer:
    names = ("optimizers", "optimizer_cls_and_kwargs", "compute_loss_func", "eval_dataset", "train_dataset")
    objects = {name: given.pop(name) for name in names if name in given}
    trainer = kind(
        model=Classifier() if model is None else model,
        args=arguments(folder, **given),
        **{**USUAL, **objects},
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A training with nothing overridden."""
    return run(Trainer, tmp_path_factory.mktemp("usual"))


# -- the loss ----------------------------------------------------------------------------------------


def test_compute_loss_is_heard(usual: Trainer, tmp_path: Path) -> None:
    class Doubled(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().compute_loss(*args, **kwargs)

    doubled = run(Doubled, tmp_path, learning_rate=0.0)
    still = run(Trainer, tmp_path / "still", learning_rate=0.0)
    assert losses(doubled) == pytest.approx([2 * loss for loss in losses(still)])


def test_compute_loss_is_heard_with_our_own_models_and_in_an_evaluation(tmp_path: Path) -> None:
    class Constant(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            outputs = model(**inputs)
            loss = outputs["loss"] * 0 + 3
            return (loss, outputs) if return_outputs else loss

    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    trainer = run(Constant, tmp_path, model, train_dataset=tokens(), eval_dataset=tokens(3), max_steps=1)
    assert losses(trainer) == [3.0]
    assert trainer.evaluate()["eval_loss"] == 3.0


def test_training_step_is_heard_and_its_backward_is_its_own(usual: Trainer, tmp_path: Path) -> None:
    calls: list[Any] = []

    class Counting(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            calls.append(num_items_in_batch)
            return super().training_step(model, inputs, num_items_in_batch)

    class ByHand(Trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            loss.backward()
            return loss.detach()

    for kind in (Counting, ByHand):
        trainer = run(kind, tmp_path / kind.__name__)
        assert losses(trainer) == losses(usual)
        assert same(trainer.model, usual.model)
    assert calls == [None] * 4
    options = {"gradient_accumulation_steps": 3, "num_train_epochs": 1}
    counted = run(Counting, tmp_path / "counted", CountingClassifier(), **options)
    assert [int(call) for call in calls[4:]] == [6, 6, 6, 6, 6, 6, 1]
    assert not calls[-1].is_floating_point()
    plain = run(Trainer, tmp_path / "plain", CountingClassifier(), **options)
    assert losses(counted) == pytest.approx(losses(plain), rel=1e-6)
    assert distance(weights(counted.model), weights(plain.model)) < 1e-6


def test_compute_loss_func_gets_outputs_labels_and_the_count(usual: Trainer, tmp_path: Path) -> None:
    seen: list[tuple[Any, ...]] = []

    def mean(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        seen.append((set(outputs), labels.shape, num_items_in_batch))
        return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    whole = run(Trainer, tmp_path / "whole", compute_loss_func=mean, per_device_train_batch_size=4)
    parts = run(Trainer, tmp_path / "parts", compute_loss_func=mean, gradient_accumulation_steps=2)
    assert seen[0] == ({"logits"}, (4,), 4)
    assert seen[-1][2] == 1, "13 rows in steps of 4: the fourth has one"
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-6)
    assert distance(weights(whole.model), weights(parts.model)) < 1e-6
    assert losses(run(Trainer, tmp_path / "same", compute_loss_func=mean)) == pytest.approx(losses(usual))


def test_a_model_may_say_that_it_does_not_count(tmp_path: Path) -> None:
    class Either(Classifier):
        def forward(self, x: Tensor, labels: Tensor | None = None, **more: Any) -> Any:  # type: ignore[override]
            assert more.keys() <= {"num_items_in_batch"}
            assert ("num_items_in_batch" in more) != (getattr(self, "accepts_loss_kwargs", True) is False)
            return super().forward(x, labels)

    silent = Either()
    silent.accepts_loss_kwargs = False  # type: ignore[assignment]
    mean = run(Trainer, tmp_path / "mean", silent, gradient_accumulation_steps=3, learning_rate=0.0)
    total = run(Trainer, tmp_path / "sum", Either(), gradient_accumulation_steps=3, learning_rate=0.0)
    assert losses(total)[:2] == pytest.approx([3 * loss for loss in losses(mean)[:2]]), (
        "it did not divide by it"
    )

    class Saying(Trainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.model_accepts_loss_kwargs = False

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            return model(**inputs)["loss"]

    plain = run(Saying, tmp_path / "saying", gradient_accumulation_steps=3, learning_rate=0.0)
    assert losses(plain) == pytest.approx(losses(mean))


def test_contexts_of_the_loss_are_entered(tmp_path: Path) -> None:
    class Half(Trainer):
        def compute_loss_context_manager(self) -> Any:
            return torch.autocast("cpu", torch.bfloat16)

    half, full = run(Half, tmp_path / "half"), run(Trainer, tmp_path / "full")
    assert losses(half) != losses(full)
    assert losses(half) == pytest.approx(losses(full), rel=0.05)


# -- data loaders ------------------------------------------------------------------------------------


def test_the_loader_of_an_override_is_trained_on(tmp_path: Path) -> None:
    batches = [{"x": torch.full((2, 4), float(n)), "labels": torch.tensor([0, 1])} for n in range(3)]
    seen: list[float] = []

    class Own(Trainer):
        def get_train_dataloader(self) -> Any:
            return batches

        def compute_loss(self, model: Any, inputs: Any, **kwargs: Any) -> Any:
            seen.append(float(inputs["x"][0, 0]))
            return super().compute_loss(model, inputs, **kwargs)

    trainer = run(
        Own, tmp_path / "epochs", train_dataset=None, num_train_epochs=2, gradient_accumulation_steps=2
    )
    assert trainer.state.global_step == 4
    assert seen == [0.0, 1.0, 2.0] * 2

    class Endless(Own):
        def get_train_dataloader(self) -> Any:
            return iter(batches * 5)

    with pytest.raises(ConfigError, match=r"^max_steps: the training data has no known length"):
        run(Endless, tmp_path / "endless", train_dataset=None, num_train_epochs=1)


def test_our_own_loader_gives_the_first_epoch_in_the_order_of_the_training(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watching(Trainer):
        def compute_loss(self, model: Any, inputs: Any, **kwargs: Any) -> Any:
            seen.append(inputs["x"])
            return super().compute_loss(model, inputs, **kwargs)

    for dataset in (points(), SizedStream(points())):
        seen.clear()
        trainer = run(Watching, tmp_path / type(dataset).__name__, train_dataset=dataset, num_train_epochs=1)
        loader = trainer.get_train_dataloader()
        assert isinstance(loader, torch.utils.data.DataLoader)
        assert [batch["x"].tolist() for batch in loader] == [x.tolist() for x in seen]
        assert trainer.num_examples(loader) == 13
    assert trainer.num_examples([{}] * 4) == 8


def test_loaders_for_evaluation_are_heard_and_told_the_name(tmp_path: Path) -> None:
    asked: list[Any] = []

    class Own(Trainer):
        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            asked.append(eval_dataset)
            return super().get_eval_dataloader(eval_dataset)

        def get_test_dataloader(self, test_dataset: Any) -> Any:
            asked.append(len(test_dataset))
            return super().get_test_dataloader(test_dataset[:2])

    rows = points(5)
    trainer = Own(model=Classifier(), args=arguments(tmp_path), eval_dataset={"a": rows, "b": rows[:3]})
    trainer.evaluate()
    trainer.evaluate(rows)
    trainer.evaluate({"c": rows})
    assert asked == ["a", "b", rows, rows]
    assert len(trainer.predict(rows).predictions) == 2
    loader = trainer.get_eval_dataloader("b")
    assert [len(batch["labels"]) for batch in loader] == [3]
    assert trainer.num_examples(loader) == 3
    streamed = trainer.get_eval_dataloader(Stream(rows))
    assert sum(len(batch["labels"]) for batch in streamed) == 5
    with pytest.raises(
        ConfigError, match=r"^eval_dataset: an evaluation needs one; give it to the Trainer or to"
    ):
        Trainer(model=Classifier(), args=arguments(tmp_path)).evaluate()


def test_an_override_of_the_evaluation_needs_no_data_set(tmp_path: Path) -> None:
    class Own(Trainer):
        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return [{"x": torch.zeros(2, 4), "labels": torch.tensor([0, 1])}]

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            return {**super().evaluate(*args, **kwargs), "eval_extra": float(self.state.global_step)}

    trainer = run(
        Own,
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="extra",
    )
    assert trainer.state.best_metric == 4.0
    assert trainer.state.best_model_checkpoint == "checkpoint-4"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_train_epochs": 1.5}, (2, 4, 13, 19.5, True, 7, 6)),
        ({"max_steps": 9}, (3, 4, 13, 36, False, 7, 9)),
    ],
)
def test_initial_values_are_those_of_the_reference(given: Any, expected: Any, tmp_path: Path) -> None:
    trainer = Trainer(
        model=Classifier(), args=arguments(tmp_path, gradient_accumulation_steps=2, **given), **USUAL
    )
    loader = trainer.get_train_dataloader()
    assert trainer.set_initial_training_values(trainer.args, loader, 4) == expected
    theirs = transformers.Trainer(
        model=Classifier(),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path), gradient_accumulation_steps=2, use_cpu=True, report_to="none", **given
        ),
    )
    found = theirs.set_initial_training_values(theirs.args, loader)  # 5.23 gives a total batch size fifth
    assert (*found[:3], *found[5:7]) == (*expected[:3], *expected[5:])


def test_initial_values_of_a_loader_without_length(tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=9)
    trainer = Trainer(model=Classifier(), args=args, train_dataset=Stream(points()))
    loader = trainer.get_train_dataloader()
    assert trainer.set_initial_training_values(args, loader) == (sys.maxsize, 9, 18, 18, False, None, 9)
    args.max_steps = -1
    with pytest.raises(ConfigError, match=r"^max_steps: the loader has no known length"):
        trainer.set_initial_training_values(args, loader)


def test_tokens_are_counted() -> None:
    batches = [{"input_ids": torch.zeros(2, width)} for width in (3, 5)]
    assert Trainer.num_tokens(batches) == 16
    assert Trainer.num_tokens(batches, max_steps=10) == 60


def test_batches_of_a_step_are_collected_with_their_count(tmp_path: Path) -> None:
    rows = tokens(5)
    args = arguments(tmp_path)
    for model in (
        AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0),
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)),
    ):
        trainer = Trainer(model=model, args=args, train_dataset=rows)
        iterator = iter(trainer.get_train_dataloader())
        batches, count = trainer.get_batch_samples(iterator, 2, torch.device("cpu"))
        assert [len(batch["labels"]) for batch in batches] == [2, 2]
        assert count == sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        rest, _ = trainer.get_batch_samples(iterator, 2, torch.device("cpu"))
        assert [len(batch["labels"]) for batch in rest] == [1]
        assert trainer.get_batch_samples(iterator, 2, torch.device("cpu")) == ([], None)


# -- optimizer and schedule --------------------------------------------------------------------------


def test_an_optimizer_may_be_made_in_many_ways(tmp_path: Path) -> None:
    options = {"lr": 0.1, "momentum": 0.5}

    class ByMethod(Trainer):
        def create_optimizer(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), **options)

    class BySetting(Trainer):
        def create_optimizer(self) -> None:  # type: ignore[override]
            self.optimizer = torch.optim.SGD(self.model.parameters(), **options)

    class ByClass(Trainer):
        @staticmethod
        def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> Any:
            return torch.optim.SGD, options

    class Whole(Trainer):
        def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
            self.optimizer = torch.optim.SGD(self.model.parameters(), **options)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer, lambda step: (num_training_steps - step) / num_training_steps
            )

    model = Classifier()
    expected = run(
        Trainer, tmp_path / "given", model, optimizers=(torch.optim.SGD(model.parameters(), **options), None)
    )
    assert [type(expected.optimizer)] == [torch.optim.SGD]
    for kind in (ByMethod, BySetting, ByClass, Whole):
        trainer = run(kind, tmp_path / kind.__name__)
        assert same(trainer.model, expected.model), kind
        assert _rates(trainer) == pytest.approx(_rates(expected)), kind
    chosen = run(Trainer, tmp_path / "class", optimizer_cls_and_kwargs=(torch.optim.SGD, options))
    assert same(chosen.model, expected.model)
    by_hand = Trainer(
        model=Classifier(), args=arguments(tmp_path / "hand", optim="sgd", learning_rate=0.1), **USUAL
    )
    made = by_hand.create_optimizer()
    assert by_hand.create_optimizer() is made
    by_hand.train()
    assert by_hand.optimizer is made


def _rates(trainer: Trainer) -> list[float]:
    return [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]


def test_a_schedule_may_be_given_or_made(tmp_path: Path) -> None:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    class ByMethod(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            assert num_training_steps == 4
            return halving(optimizer)

    class BySetting(Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> None:
            self.lr_scheduler = halving(optimizer)

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = run(Trainer, tmp_path / "given", model, optimizers=(optimizer, halving(optimizer)))
    assert _rates(given) == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    for kind in (ByMethod, BySetting):
        trainer = run(kind, tmp_path / kind.__name__, optim="sgd", learning_rate=0.1)
        assert _rates(trainer) == pytest.approx(_rates(given))
        assert isinstance(trainer.lr_scheduler, torch.optim.lr_scheduler.ExponentialLR)
    usual = Trainer(model=Classifier(), args=arguments(tmp_path), **USUAL)
    usual.create_optimizer_and_scheduler(10)
    assert usual.lr_scheduler.get_last_lr() == [1e-2]
    usual.optimizer.step()
    usual.lr_scheduler.step()
    assert usual.get_learning_rates() == pytest.approx([0.9e-2])


def test_weight_decay_goes_where_the_program_says(tmp_path: Path) -> None:
    class OnlyScores(Trainer):
        def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
            return ["scores.weight"]

    trainer = run(OnlyScores, tmp_path, weight_decay=0.1)
    decaying, others = trainer.optimizer.param_groups
    assert decaying["param_names"] == ["scores.weight"]
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    usual = Trainer(model=Classifier(), args=arguments(tmp_path, weight_decay=0.1), **USUAL)
    assert usual.get_decay_parameter_names(usual.model) == ["hidden.weight", "scores.weight"]
    with pytest.raises(
        ConfigError, match=r"^optimizer: there is none yet; call create_optimizer\(\) or train\(\)"
    ):
        usual.get_learning_rates()
    usual.create_optimizer()
    assert usual.get_optimizer_group(usual.model.scores.bias)["weight_decay"] == 0.0
    assert usual.get_optimizer_group(nn.Parameter(torch.zeros(1))) is None
    assert [len(group) for group in usual.get_optimizer_group()] == [2, 2]
    assert usual.get_num_trainable_parameters() == 4 * 8 + 8 + 8 * 3 + 3


def test_the_optimizers_class_and_options_are_told(tmp_path: Path) -> None:
    args = arguments(tmp_path, learning_rate=1e-3, adam_beta2=0.9)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    theirs, expected = transformers.Trainer.get_optimizer_cls_and_kwargs(
        transformers.TrainingArguments(
            output_dir=str(tmp_path), learning_rate=1e-3, adam_beta2=0.9, optim="adamw_torch", use_cpu=True
        )
    )
    assert kind is theirs
    assert {name: options[name] for name in expected} == expected
    assert isinstance(kind(nn.Linear(1, 1).parameters(), **options), torch.optim.AdamW)


# -- logs, saving, and what is counted ---------------------------------------------------------------


def test_log_is_heard_and_may_add(tmp_path: Path) -> None:
    class Adding(Trainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log({**logs, "extra": 1.0}, start_time)

    trainer = run(Adding, tmp_path / "adding")
    lines = [json.loads(line) for line in (tmp_path / "adding" / "metrics.jsonl").read_text().splitlines()]
    assert [line["extra"] for line in lines] == [1.0] * 5
    assert lines == trainer.state.log_history

    class Swallowing(Trainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            pass

    silent = run(Swallowing, tmp_path / "silent")
    assert silent.state.log_history == []


def test_tokens_a_second_are_logged_from_a_start_time(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    trainer = run(
        Trainer, tmp_path, model, train_dataset=tokens(), max_steps=1, include_num_input_tokens_seen="all"
    )
    assert trainer.state.num_input_tokens_seen == 16
    trainer.log({"own": 1.0}, start_time=0.0)
    assert 0 < trainer.state.log_history[-1]["train_tokens_per_second"] < 1
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["own"] == 1.0


def test_save_model_is_heard_by_every_checkpoint(tmp_path: Path) -> None:
    class Marking(Trainer):
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            super().save_model(output_dir, _internal_call)
            (Path(output_dir or self.output_dir) / "mark").write_text(str(_internal_call))

    options = {"save_strategy": "steps", "save_steps": 2}
    trainer = run(Marking, tmp_path / "run", max_steps=6, **options)
    for folder in ("checkpoint-2", "checkpoint-4", "checkpoint-6", "."):
        assert (tmp_path / "run" / folder / "mark").read_text() == "True"
        assert (tmp_path / "run" / folder / "model.safetensors").is_file()
    resumed = Marking(model=Classifier(), args=arguments(tmp_path / "run", max_steps=6, **options), **USUAL)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert same(resumed.model, trainer.model)


def test_operations_are_counted_by_the_program(tmp_path: Path) -> None:
    class Counting(Trainer):
        def floating_point_ops(self, inputs: Any) -> int:
            return len(inputs["labels"])

    assert run(Counting, tmp_path / "counting").state.total_flos == 8
    assert run(Trainer, tmp_path / "unknown").state.total_flos == 0
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    trainer = run(Trainer, tmp_path / "llama", llama, train_dataset=tokens(), max_steps=1)
    expected = 6 * 16 * llama.num_parameters(exclude_embeddings=True)
    assert trainer.state.total_flos == expected


def test_processes_and_their_shares(usual: Trainer) -> None:
    assert (usual.get_tp_size(), usual.get_cp_size(), usual.get_sp_size()) == (1, 1, 1)
    assert usual.get_total_train_batch_size(usual.args) == 2
    assert usual.is_world_process_zero()
    assert usual.is_local_process_zero()
    assert usual.model_wrapped is usual.model
    assert usual.is_model_parallel is False
    assert usual.place_model_on_device is True


# -- the default collator ----------------------------------------------------------------------------


def test_rows_are_stacked_where_nothing_pads(tmp_path: Path) -> None:
    collate = default_collator(None)
    batch = collate(
        [
            {"x": [1, 2], "label": 0, "text": "a", "no": None},
            {"x": [3, 4], "label": 1, "text": "b", "no": None},
        ]
    )
    assert {name: value.tolist() for name, value in batch.items()} == {
        "x": [[1, 2], [3, 4]],
        "labels": [0, 1],
    }


def test_a_foreign_tokenizer_pads_as_in_the_reference(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    rows = [{"input_ids": [1, 2, 3], "label": 0}, {"input_ids": [4], "label": 1}]
    words = models.WordLevel({str(n): n for n in range(8)}, unk_token="0")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="0")
    found = default_collator(tokenizer)(rows)
    expected = transformers.DataCollatorWithPadding(tokenizer)(rows)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in expected.items()
    }


def test_our_own_tokenizer_pads_tokens_masks_and_labels() -> None:
    from types import SimpleNamespace

    rows = [
        {"input_ids": [1, 2, 3], "labels": [1, 2, 3], "label": 0},
        {"input_ids": [4], "labels": [4], "label": 1},
    ]
    for row in rows:
        del row["label"]
    batch = default_collator(SimpleNamespace(pad_token_id=9))(rows)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[1, 2, 3], [4, 9, 9]],
        "labels": [[1, 2, 3], [4, -100, -100]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }


def test_means_of_losses_are_over_all_steps(usual: Trainer) -> None:
    assert all(math.isfinite(loss) for loss in losses(usual))
    assert losses(usual)[0] != losses(usual)[-1]
