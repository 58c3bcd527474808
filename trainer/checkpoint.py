"""What a checkpoint holds, written and read back exactly.

::

    checkpoint-N/           config.json model*.safetensors tokenizer files generation_config.json
      trainer_state.json    the reference's TrainerState; paths relative to the run folder
      training/optimizer.safetensors   "<parameter name as in model.safetensors>/<state name>"
      training/averaging.safetensors   the trained weights, where model.safetensors holds their average
  training/state.json   data position, open log window, scalars of the optimizer, world size, threads
      training/rng-<rank>.safetensors  torch's generators       training/config.yaml
      MANIFEST.json         written last

The top of it is an ordinary Hugging Face folder that loads anywhere. Weights and tensors are safetensors,
everything else is JSON: reading a checkpoint can run no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.weights import WeightFiles, save_tensors
from trainer.batch_size import split_as_found
from trainer.manifest import TRAINING, Folder, files_of_model, move_up, publish, require_space, verify
from trainer.model_files import ModelFiles, save_processor
from trainer.optimizers.state import changed_values, restore_state, restore_values, split_state
from trainer.ranks.ranks import unwrap
from trainer.retention import retain
from trainer.seeding import generator_states, restore_generators, seed_rank
from trainer.state import TrainerState

if TYPE_CHECKING:
    from trainer.run import Run

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


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """What of a checkpoint is wanted, and what of it is restored."""

    max_shard_size: int
    save_total_limit: int | None = None
    save_only_model: bool = False
    restores_callbacks: bool = True
    skips_data: bool = True


class Checkpointer:
    """Writes the ``checkpoint-<step>`` folders of a run, keeps as many as are wanted, and restores them."""

    def __init__(
        self,
        run_dir: Path,
        *,
        files: ModelFiles,
        processor: Any,
        config_yaml: str,
        options: CheckpointOptions,
        rows_per_step: int = 1,
        num_threads: int = 1,
        seed: int = 0,
        card: Callable[[Run], str] | None = None,
    ):
        self.run_dir, self.files, self.processor = run_dir, files, processor
        self.config_yaml, self.options = config_yaml, options
        self.rows_per_step = rows_per_step
        self.num_threads, self.seed = num_threads, seed
        self.card = card
        self.last_step: int | None = None
        self.best_loaded: Path | None = None
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
            require_space(path, self._num_bytes(run))
            with publish(path, about={"step": state.global_step}) as folder:
                self.save_model(run, folder)
                self._save_state(run, folder)
                if not self.options.save_only_model:
                    self._save_training(run, folder, generators)
            self._written.append(path)
            if self.options.save_total_limit is not None:
                best = [self.run_dir / state.best_model_checkpoint] if state.best_model_checkpoint else []
                retain(self.run_dir, limit=self.options.save_total_limit, keep=best, written=self._written)
        ranks.barrier()
        self.last_step = state.global_step

    def save_model(self, run: Run, folder: Folder) -> None:
        """The part that loads anywhere: weights, configuration, processor files."""
        with run.averaged():
            self.files.save(unwrap(run.model), folder)
        save_processor(self.processor, folder)

    def _save_state(self, run: Run, folder: Folder) -> None:
        run.state.stateful_callbacks = run.callbacks.state_dict()
        folder.write_text(
            "trainer_state.json", json.dumps(run.state.to_dict(), indent=2, sort_keys=True) + "\n"
        )
        folder.write_text(f"{TRAINING}/config.yaml", self.config_yaml)

    def _save_training(self, run: Run, folder: Folder, generators: list[Mapping[str, Tensor]]) -> None:
        tensors, scalars = split_state(run.optimizer)
        shard_size = self.options.max_shard_size
        save_tensors(tensors.items(), folder.open, stem=f"{TRAINING}/optimizer", max_shard_size=shard_size)
        if run.averaging is not None:
            averaging = run.averaging.tensors()
            save_tensors(
                averaging.items(), folder.open, stem=f"{TRAINING}/averaging", max_shard_size=shard_size
            )
        for rank, states in enumerate(generators):
            save_tensors(states.items(), folder.open, stem=f"{TRAINING}/rng-{rank}")
        folder.write_json(
            f"{TRAINING}/state.json",
            {
                "batches": run.batches.state_dict(),
                "window": run.window.state_dict(),
                "rates": run.rates.state_dict(),
                "updates": run.updates,
                "scaler": run.ranks.scaler_state(),
                "optimizer_scalars": scalars,
                "groups": changed_values(run.optimizer, run.group_values),
                "rows_per_step": self.rows_per_step,
                "world_size": run.ranks.world_size,
                "num_threads": self.num_threads,
                "versions": {"torch": torch.__version__},
            },
        )

    def save_final(self, run: Run) -> None:
        """The model at the top of the run folder with its card, by hard links to a checkpoint if possible."""
        if run.ranks.is_main:
            staged = self.run_dir / ".final"
            source = self.last_saved if self.last_step == run.state.global_step else None
            source = self.best_loaded or source
            with publish(staged) as folder:
                if source is None:
                    self.save_model(run, folder)
                else:
                    for file in files_of_model(source):
                        folder.link(file.relative_to(source).as_posix(), file)
                if self.card is not None:
                    folder.write_text("README.md", self.card(run))
            move_up(staged, self.run_dir)
        run.ranks.barrier()

    def _num_bytes(self, run: Run) -> int:
        """What a checkpoint of ``run`` takes on disk, but for a few small files."""
        weights = sum(t.nbytes for t in unwrap(run.model).state_dict().values())
        if self.options.save_only_model:
            return weights + 2**20
        tensors, _ = split_state(run.optimizer)
        if run.averaging is not None:
            tensors |= run.averaging.tensors()
        return weights + sum(t.nbytes for t in tensors.values()) + 2**20 * (1 + run.ranks.world_size)

    # -- restoring -----------------------------------------------------------------------------------

    def restore(self, run: Run, path: Path) -> list[str]:
        """Put a run back to where ``path`` was written; the weights were loaded when the model was built.

        Returns sentences about what could not be exact. Raises ``CheckpointError``.
        """
        saved = json.loads((path / TRAINING / "state.json").read_text())
        restored = TrainerState.load_from_json(path / "trainer_state.json")
        for name in RESTORED:
            setattr(run.state, name, getattr(restored, name))
        restore_state(run.optimizer, WeightFiles(path / TRAINING, "optimizer"), saved["optimizer_scalars"])
        restore_values(run.optimizer, saved["groups"])
        if run.averaging is not None:
            files = WeightFiles(path / TRAINING, "averaging")
            run.averaging.load_tensors({name: files.get(name) for name in files.keys()})  # noqa: SIM118
        run.batches.load_state_dict(saved["batches"], skip=self.options.skips_data)
        if run.options.finds_batch_size and restored.train_batch_size is not None:
            split_as_found(run, restored.train_batch_size)
        run.window.load_state_dict(saved["window"])
        run.updates = saved.get("updates", run.state.global_step)
        run.rates.load_state_dict(saved.get("rates", {}))
        run.ranks.load_scaler_state(saved.get("scaler", {}))
        if self.options.restores_callbacks:
            run.callbacks.load_state_dict(restored.stateful_callbacks)
        metric = run.options.metric_for_best_model
        evaluations = (line for line in reversed(run.state.log_history) if metric in line)
        run.last_metrics = {k: v for k, v in next(evaluations, {}).items() if k.startswith("eval_")}
        run.first_step, run.tokens_at_start = run.state.global_step, run.state.num_input_tokens_seen
        self.last_step = run.state.global_step
        note = getattr(run.batches, "resume_note", None)
        return [*([note] if note else []), *self._restore_generators(run, path, saved)]

    def load_best(self, run: Run) -> None:
        """Put the weights of the best evaluation into the model; ``CheckpointError`` if they are damaged."""
        name = run.state.best_model_checkpoint
        if name is None:
            run.say("no evaluation was saved: the model stays as it is after the last step.")
            return
        self.best_loaded = self.run_dir / name
        if self.best_loaded != self.last_saved or self.last_step != run.state.global_step:
            verify(self.best_loaded)
            self.files.load(unwrap(run.model), self.best_loaded)

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
