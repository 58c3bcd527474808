"""What a checkpoint holds, written and read back exactly.

::

    checkpoint-N/           config.json model*.safetensors tokenizer files generation_config.json
      trainer_state.json    the reference's TrainerState; paths relative to the run folder
      training/optimizer.safetensors   "<parameter name as in model.safetensors>/<state name>"
      training/state.json   data position, open log window, scalars of the optimizer, world size, threads
      training/rng-<rank>.safetensors  torch's generators       training/config.yaml
      MANIFEST.json         written last

The top of it is an ordinary Hugging Face folder that loads anywhere. Weights and tensors are safetensors,
everything else is JSON: reading a checkpoint can run no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from conf.errors import CheckpointError
from models.weights import WeightFiles, save_tensors, save_weights
from trainer.manifest import Folder, publish, require_space
from trainer.ranks.ranks import unwrap
from trainer.retention import retain
from trainer.seeding import generator_states, restore_generators, seed_rank
from trainer.state import TrainerState

if TYPE_CHECKING:
    from trainer.run import Run

Open = Callable[[str], BinaryIO]
TRAINING = "training"
# The fields of the state that go on; the others follow from the plan of the resumed run.
RESTORED = (
    "epoch",
    "global_step",
    "num_input_tokens_seen",
    "total_flos",
    "log_history",
    "best_metric",
    "best_global_step",
    "best_model_checkpoint",
)


class Checkpointer:
    """Writes the ``checkpoint-<step>`` folders of a run, keeps as many as are wanted, and restores them."""

    def __init__(
        self,
        run_dir: Path,
        *,
        save_processor: Callable[[Open], None],
        stop_ids: list[int],
        config_yaml: str,
        max_shard_size: int,
        save_total_limit: int | None = None,
        rows_per_step: int = 1,
        num_threads: int = 1,
        seed: int = 0,
    ):
        self.run_dir = run_dir
        self.save_processor, self.stop_ids, self.config_yaml = save_processor, stop_ids, config_yaml
        self.max_shard_size, self.save_total_limit = max_shard_size, save_total_limit
        self.rows_per_step = rows_per_step
        self.num_threads, self.seed = num_threads, seed
        self.last_step: int | None = None
        self._written: list[Path] = []

    @property
    def last_saved(self) -> Path | None:
        """The folder of the last checkpoint written or resumed from."""
        return None if self.last_step is None else self.run_dir / f"checkpoint-{self.last_step}"

    def save(self, run: Run) -> None:
        """Write a checkpoint of ``run`` as it stands; every rank calls it, one writes.

        Raises ``CheckpointError`` before anything is written when the disk would not hold it.
        """
        state, ranks = run.state, run.ranks
        path = self.run_dir / f"checkpoint-{state.global_step}"
        generators = ranks.gather({name: t.cpu() for name, t in generator_states(ranks.device).items()})
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = path.name
        if ranks.is_main:
            require_space(path, num_bytes(run))
            with publish(path, about={"step": state.global_step}) as folder:
                self.save_model(run, folder.open)
                self._save_training(run, folder, generators)
            self._written.append(path)
            if self.save_total_limit is not None:
                best = [self.run_dir / state.best_model_checkpoint] if state.best_model_checkpoint else []
                retain(self.run_dir, limit=self.save_total_limit, keep=best, written=self._written)
        ranks.barrier()
        self.last_step = state.global_step

    def save_model(self, run: Run, open: Open) -> None:
        """The part that loads anywhere: weights, configuration, processor files."""
        model = unwrap(run.model)
        save_weights(model, open, max_shard_size=self.max_shard_size)
        config = model.saved_config().to_dict()
        ids = {
            name: config[name] for name in ("bos_token_id", "pad_token_id") if config.get(name) is not None
        }
        _write_json(open, "config.json", config)
        _write_json(open, "generation_config.json", {**ids, "eos_token_id": self.stop_ids})
        self.save_processor(open)

    def _save_training(self, run: Run, folder: Folder, generators: list[Mapping[str, Tensor]]) -> None:
        tensors, scalars = split_optimizer_state(run.optimizer)
        save_tensors(
            tensors.items(), folder.open, stem=f"{TRAINING}/optimizer", max_shard_size=self.max_shard_size
        )
        for rank, states in enumerate(generators):
            save_tensors(states.items(), folder.open, stem=f"{TRAINING}/rng-{rank}")
        run.state.stateful_callbacks = run.callbacks.state_dict()
        folder.write_text(
            "trainer_state.json", json.dumps(run.state.to_dict(), indent=2, sort_keys=True) + "\n"
        )
        folder.write_text(f"{TRAINING}/config.yaml", self.config_yaml)
        folder.write_json(
            f"{TRAINING}/state.json",
            {
                "batches": run.batches.state_dict(),
                "window": run.window.state_dict(),
                "optimizer_scalars": scalars,
                "groups": [
                    {k: v for k, v in group.items() if k != "params" and _is_plain(v)}
                    for group in run.optimizer.param_groups
                ],
                "rows_per_step": self.rows_per_step,
                "world_size": run.ranks.world_size,
                "num_threads": self.num_threads,
                "versions": {"torch": torch.__version__},
            },
        )

    def save_final(self, run: Run) -> None:
        """The model at the top of the run folder, by hard links to the last checkpoint if possible."""
        if run.ranks.is_main:
            staged = self.run_dir / ".final"
            source = self.last_saved if self.last_step == run.state.global_step else None
            with publish(staged) as folder:
                if source is None:
                    self.save_model(run, folder.open)
                else:
                    for file in sorted(path for path in source.iterdir() if path.is_file()):
                        if file.name not in ("MANIFEST.json", "trainer_state.json"):
                            folder.link(file.name, file)
            _move_up(staged, self.run_dir)
        run.ranks.barrier()

    # -- restoring -----------------------------------------------------------------------------------

    def restore(self, run: Run, path: Path) -> list[str]:
        """Put a run back to where ``path`` was written; the weights were loaded when the model was built.

        Returns sentences about what could not be exact. Raises ``CheckpointError``.
        """
        saved = json.loads((path / TRAINING / "state.json").read_text())
        restored = TrainerState.load_from_json(path / "trainer_state.json")
        for name in RESTORED:
            setattr(run.state, name, getattr(restored, name))
        restore_optimizer(
            run.optimizer, WeightFiles(path / TRAINING, "optimizer"), saved["optimizer_scalars"]
        )
        run.batches.load_state_dict(saved["batches"])
        run.window.load_state_dict(saved["window"])
        run.callbacks.load_state_dict(restored.stateful_callbacks)
        evaluations = (line for line in reversed(run.state.log_history) if run.metric_for_best_model in line)
        run.last_metrics = {k: v for k, v in next(evaluations, {}).items() if k.startswith("eval_")}
        self.last_step = run.state.global_step
        return self._restore_generators(run, path, saved)

    def _restore_generators(self, run: Run, path: Path, saved: Mapping[str, Any]) -> list[str]:
        notes = []
        if saved["world_size"] == run.ranks.world_size:
            files = WeightFiles(path / TRAINING, f"rng-{run.ranks.rank}")
            restore_generators({name: files.get(name) for name in files.keys()}, run.ranks.device)  # noqa: SIM118
        else:
            seed_rank(self.seed, run.ranks.rank, run.state.global_step)
            notes.append(
                f"saved by {saved['world_size']} ranks and resumed by {run.ranks.world_size}: "
                "dropout draws anew."
            )
        if saved["num_threads"] != self.num_threads:
            notes.append(f"saved with {saved['num_threads']} threads, resumed with {self.num_threads}.")
        if saved["versions"]["torch"] != torch.__version__:
            notes.append(f"saved by torch {saved['versions']['torch']}, resumed by {torch.__version__}.")
        return notes


def split_optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors under "<parameter>/<state>", and what is no tensor."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, parameter, _ in _named_parameters(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            elif value is not None:
                scalars[f"{name}/{key}"] = value
    return tensors, scalars


def restore_optimizer(
    optimizer: torch.optim.Optimizer, files: WeightFiles, scalars: Mapping[str, Any]
) -> None:
    """Put back what ``split_optimizer_state`` gave; ``CheckpointError`` if it is of other parameters."""
    parameters = {name: (parameter, group) for name, parameter, group in _named_parameters(optimizer)}
    entries: Iterator[tuple[str, Any]] = ((key, files.get(key)) for key in files.keys())  # noqa: SIM118
    for key, value in [*entries, *scalars.items()]:
        name, _, state = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"{files.folder}: optimizer state of {name!r}, which is not trained here.")
        parameter, group = parameters[name]
        if isinstance(value, Tensor):
            # torch keeps the count of steps on the CPU unless its kernel reads it on the device.
            on_device = state != "step" or group.get("fused") or group.get("capturable")
            device = parameter.device if on_device else value.device
            # A copy into torch's own memory: kernels may round differently on memory aligned another way.
            value = torch.empty_like(value, device=device).copy_(value)
        optimizer.state[parameter][state] = value


def num_bytes(run: Run) -> int:
    """What a checkpoint of ``run`` takes on disk, but for a few small files."""
    tensors, _ = split_optimizer_state(run.optimizer)
    model = unwrap(run.model)
    weights = sum(t.nbytes for t in model.state_dict().values())
    return weights + sum(t.nbytes for t in tensors.values()) + 2**20 * (1 + run.ranks.world_size)


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Each trained parameter with its name and its group."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            yield name, parameter, group


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)


def _write_json(open: Open, name: str, content: Any) -> None:
    with open(name) as stream:
        stream.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _move_up(staged: Path, target: Path) -> None:
    """Move a folder's files into ``target``, the configuration last, so that a cut leaves no half model."""
    files = sorted(staged.iterdir(), key=lambda file: file.name == "config.json")
    names = {file.name for file in files}
    for old in target.glob("model*.safetensors*"):
        if old.name not in names:
            old.unlink()
    for file in files:
        if file.name == "MANIFEST.json":
            file.unlink()
        elif file.is_file():
            os.replace(file, target / file.name)
    staged.rmdir()
