"""What a program's training leaves behind: files, models of any kind, cards, and pushes to a hub."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from conf.errors import CheckpointError, ConfigError
from models import AutoModelForCausalLM
from models.llama.config import LlamaConfig
from tests.trainer.programs import LLAMA, Classifier, arguments, losses, points, same, tokens
from trainer import Trainer, TrainerCallback, TrainerState
from trainer.schedules import SteppedRates


def trainer_of(folder: Path, model: nn.Module | None = None, rows: Any = None, **given: Any) -> Trainer:
    objects = {name: given.pop(name) for name in ("callbacks", "processing_class") if name in given}
    return Trainer(
        model=Classifier() if model is None else model,
        args=arguments(folder, **given),
        train_dataset=points() if rows is None else rows,
        **objects,
    )


# -- models of any kind are saved and read -----------------------------------------------------------


class Tied(nn.Module):
    """A module with a shared weight, a buffer, and one that is not kept."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("passing", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        self.seen += len(x)
        return ((self.decode(self.encode(x)) - x).square().mean(),)


def test_any_module_is_saved_under_its_own_names_and_read_back(tmp_path: Path) -> None:
    rows = [{"x": row["x"]} for row in points()]
    trainer = trainer_of(tmp_path / "run", Tied(), rows, save_strategy="steps", save_steps=2)
    trainer.train()
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == {"encode.weight", "seen"}
    assert saved["seen"] == 4
    assert not (tmp_path / "run" / "config.json").exists()
    resumed = trainer_of(tmp_path / "run", Tied(), rows, save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert same(resumed.model, trainer.model)
    assert resumed.model.decode.weight is resumed.model.encode.weight
    names = load_file(tmp_path / "run" / "checkpoint-4" / "training" / "optimizer.safetensors").keys()
    assert names == {f"encode.weight/{name}" for name in ("exp_avg", "exp_avg_sq", "step")}


def test_a_checkpoint_of_another_module_is_refused(tmp_path: Path) -> None:
    trainer_of(tmp_path / "run", save_strategy="steps").train()
    wider = Classifier()
    wider.scores = nn.Linear(8, 4)
    with pytest.raises(
        CheckpointError, match=r"lacks or has in another shape scores.bias, scores.weight; it is not"
    ):
        trainer_of(tmp_path / "run", wider, save_strategy="steps").train(resume_from_checkpoint=True)

    class Less(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(4, 8)

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.hidden(x).mean()

    with pytest.raises(
        CheckpointError, match=r"has unknown tensors scores.bias, scores.weight; it is not of this"
    ):
        trainer_of(tmp_path / "run", Less(), save_strategy="steps").train(resume_from_checkpoint=True)


def test_extra_state_that_is_no_tensor_is_refused_before_training(tmp_path: Path) -> None:
    class Extra(Classifier):
        def get_extra_state(self) -> Any:
            return {"calls": 3}

        def set_extra_state(self, state: Any) -> None:
            """Nothing."""

    with pytest.raises(
        ConfigError, match=r"^model: its extra state '_extra_state' is a dict, which a weights file"
    ):
        trainer_of(tmp_path, Extra()).train()


def test_a_model_of_the_reference_is_saved_by_itself_and_goes_on(tmp_path: Path) -> None:
    def make() -> transformers.LlamaForCausalLM:
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True))

    whole = trainer_of(tmp_path / "whole", make(), tokens(), save_strategy="steps", save_steps=2)
    whole.train()
    again = trainer_of(tmp_path / "whole", make(), tokens(), save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert same(again.model, whole.model)
    assert losses(again) == losses(whole)
    for folder in ("checkpoint-4", "."):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / folder)
        assert same(loaded, whole.model)
    other = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "hidden_size": 8}))
    with pytest.raises(CheckpointError, match=r"cannot be loaded into this model"):
        trainer_of(tmp_path / "whole", other, tokens(), save_strategy="steps").train(
            resume_from_checkpoint=True
        )


def test_our_own_model_is_saved_for_others_to_load(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    trainer_of(tmp_path, model, tokens()).train()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    row = tokens(1)[0]["input_ids"][None]
    with torch.no_grad():
        assert torch.allclose(loaded(row).logits, model(input_ids=row).logits, atol=1e-5)


def test_save_model_writes_model_and_processor_and_nothing_else(tmp_path: Path) -> None:
    class Processor:
        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / "processor_config.json").write_text("{}")

    trainer = trainer_of(tmp_path / "run", processing_class=Processor())
    trainer.save_model(str(tmp_path / "own"))
    trainer.save_model()
    for folder in ("own", "run"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert names == {"model.safetensors", "processor_config.json"}


# -- figures -----------------------------------------------------------------------------------------


def test_metrics_and_state_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of(tmp_path / "run")
    output = trainer.train()
    trainer.save_metrics("eval", {"eval_loss": 0.5})
    trainer.save_metrics("test", {"test_loss": 0.25}, combined=False)
    every = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert every["eval_loss"] == 0.5
    assert every["train_loss"] == output.training_loss
    assert "test_loss" not in every
    assert json.loads((tmp_path / "run" / "test_results.json").read_text()) == {"test_loss": 0.25}
    trainer.log_metrics("eval", {"eval_loss": 0.5, "eval_runtime": 61.5})
    printed = capsys.readouterr().out
    assert "***** eval metrics *****" in printed
    assert "eval_runtime = 0:01:01.50" in printed
    theirs = transformers.Trainer.metrics_format({"eval_runtime": 61.5, "x": 0.123456, "total_flos": 2.0**31})
    assert Trainer.metrics_format({"eval_runtime": 61.5, "x": 0.123456, "total_flos": 2.0**31}) == theirs
    trainer.save_state()
    saved = TrainerState.load_from_json(tmp_path / "run" / "trainer_state.json")
    assert saved.log_history == trainer.state.log_history
    assert saved.global_step == 4


def test_an_evaluation_after_a_training_is_added_to_its_lines(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "run")
    trainer.train()
    trainer.evaluate(points(3))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4
    assert "eval_loss" in json.loads(lines[-1])
    assert trainer.run is not None
    assert trainer.run.metrics_file._stream is None, "the file is closed"


# -- cards -------------------------------------------------------------------------------------------


def test_a_card_tells_what_the_program_knows_besides(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^create_model_card: nothing was trained yet; call train\(\) first"
    ):
        trainer.create_model_card()
    trainer.train()
    written = (tmp_path / "README.md").read_text()
    assert "Classifier" in written
    trainer.create_model_card(
        language="en",
        license="mit",
        tags="small",
        model_name="Points",
        finetuned_from="me/base",
        tasks="text-classification",
        dataset_tags="me/data",
        dataset="Data",
        dataset_args="first",
    )
    card = (tmp_path / "README.md").read_text()
    for words in (
        "# Points",
        "language:\n- en",
        "license: mit",
        "- small",
        "base_model: me/base",
        "- me/data",
        "Data",
    ):
        assert words in card, words
        assert words not in written, words


# -- the hub -----------------------------------------------------------------------------------------


class LocalHub:
    """Keeps what is uploaded, by message; in place of the client of a hub."""

    def __init__(self, **options: Any):
        self.repositories: list[tuple[str, Any]] = []
        self.commits: list[tuple[str, set[str], Any, Any]] = []

    def create_repo(self, repo_id: str, *, token: Any, private: Any, exist_ok: bool) -> Any:
        self.repositories.append((repo_id, token))
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, folder_path: Path, commit_message: str, **more: Any) -> Any:
        names = {
            path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()
        }
        self.commits.append((commit_message, names, more["token"], more["revision"]))
        return SimpleNamespace(title=commit_message)

    def run_as_future(self, function: Any, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        thread = threading.Thread(target=lambda: future.set_result(function(*args)))
        thread.start()
        thread.join()
        return future


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    local = LocalHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **options: local)
    return local


class Telling(TrainerCallback):
    """Counts the pushes that begin."""

    def __init__(self) -> None:
        self.pushes = 0

    def on_push_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pushes += 1


def test_nothing_is_published_unless_asked(hub: LocalHub, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, save_strategy="steps")
    trainer.train()
    trainer.save_model()
    assert hub.repositories == hub.commits == []


def test_a_training_publishes_its_checkpoints_and_its_end(hub: LocalHub, tmp_path: Path) -> None:
    telling = Telling()
    trainer = trainer_of(
        tmp_path / "named",
        push_to_hub=True,
        save_strategy="steps",
        save_steps=2,
        callbacks=[telling],
        hub_token="hf_secret",
    )
    assert hub.repositories == [("named", "hf_secret")], "made before the training"
    trainer.train()
    assert [commit[0] for commit in hub.commits] == [
        "Training in progress, step 2",
        "Training in progress, step 4",
        "End of training",
    ]
    assert hub.commits[-1][1] == {"README.md", "model.safetensors"}
    assert telling.pushes == 3
    trainer.save_model()
    assert hub.commits[-1][0] == "Model save"
    texts = [
        path.read_text()
        for path in (tmp_path / "named").rglob("*")
        if path.suffix in (".yaml", ".md", ".json")
    ]
    assert not any("hf_secret" in text for text in texts)


def test_a_program_publishes_by_itself(hub: LocalHub, tmp_path: Path) -> None:
    telling = Telling()
    trainer = trainer_of(tmp_path / "named", callbacks=[telling])
    trainer.train()
    assert trainer.push_to_hub("Mine", token="hf_own", revision="next", license="mit").title == "Mine"
    assert hub.commits == [("Mine", {"README.md", "model.safetensors"}, "hf_own", "next")]
    assert "license: mit" in (tmp_path / "named" / "README.md").read_text()
    assert telling.pushes == 1
    future = trainer.push_to_hub(blocking=False)
    assert future.result().title == "End of training"
    assert len(hub.commits) == 2


# -- a program's own schedule ------------------------------------------------------------------------


def one_after_the_other(optimizer: Any) -> Any:
    parts = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.5),
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[3, 6])


def at_once(optimizer: Any) -> Any:
    parts = [
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.5),
    ]
    return torch.optim.lr_scheduler.ChainedScheduler(parts)


def cycle(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=12)


@pytest.mark.parametrize("kind", [one_after_the_other, at_once, cycle])
@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_a_schedule_of_several_parts_is_saved_whole(kind: Any, cut: int) -> None:
    def make() -> tuple[Any, SteppedRates]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        schedule = SteppedRates(kind(optimizer))
        optimizer.step()
        return optimizer, schedule

    def rates(schedule: SteppedRates, first: int) -> list[list[float]]:
        found = []
        for step in range(first, 10):
            schedule.set(step)
            found.append(schedule.get_last_lr())
        return found

    whole = rates(make()[1], 0)
    assert len({rate for (rate,) in whole}) > 5
    _, broken = make()
    broken.set(cut)
    state = json.loads(json.dumps(broken.state_dict()))
    optimizer, resumed = make()
    resumed.load_state_dict(state)
    assert [group["lr"] for group in optimizer.param_groups] == whole[cut]
    assert rates(resumed, cut) == whole[cut:]
