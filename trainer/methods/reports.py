"""What a training is reported by: logs, metrics files, the model's card and its place on the hub."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.errors import ConfigError
from trainer import reports
from trainer.assemble import make_publisher
from trainer.hub import HubPublisher
from trainer.model_card import facts_of, model_card
from trainer.run_folder import RunFolder


class ReportMethods:
    """Reports (reference: main_classes/trainer)."""

    args: Any
    config: Any
    ranks: Any
    run: Any
    state: Any
    callback_handler: Any
    publisher: HubPublisher | None
    output_dir: Path
    save_model: Any
    is_in_train: bool

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line to the history and whoever listens, with step and epoch.

        With ``start_time``, of ``time.time()``, the tokens a second since then are added if they are counted.
        """
        logs = dict(logs)
        if start_time is not None and self.args.include_num_input_tokens_seen not in ("no", False):
            seconds = max(time.time() - start_time, 1e-9)
            logs["train_tokens_per_second"] = self.state.num_input_tokens_seen / seconds
        if self.run is not None:
            self.run.write_line(logs)
            if not self.is_in_train:
                self.run.metrics_file.close()
            return
        line = {"step": self.state.global_step, "epoch": self.state.epoch, **logs}
        self.state.log_history.append(line)
        self.callback_handler("on_log", logs=dict(line))

    def log_metrics(self, split: str, metrics: Mapping[str, float]) -> None:
        """Print metrics in a form for people; the main process does."""
        reports.log_metrics(split, metrics, is_main=self.is_world_process_zero())

    def save_metrics(self, split: str, metrics: Mapping[str, float], combined: bool = True) -> None:
        """Write ``<split>_results.json`` and, ``combined``, merge them into ``all_results.json``."""
        if self.is_world_process_zero():
            reports.save_metrics(self.output_dir, split, metrics, combined=combined)

    @staticmethod
    def metrics_format(metrics: Mapping[str, float]) -> dict[str, Any]:
        """Times, sizes and rates as people write them."""
        return reports.metrics_format(metrics)

    def save_state(self) -> None:
        """Write ``trainer_state.json`` into the run folder; the main process does."""
        if self.is_world_process_zero():
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self.state.save_to_json(self.output_dir / "trainer_state.json")

    def is_world_process_zero(self) -> bool:
        """Whether this is the main process of all."""
        return self.ranks.is_main

    def is_local_process_zero(self) -> bool:
        """Whether this is the main process of its machine."""
        return self.ranks.launched.local_rank == 0

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows of an optimizer step over all processes."""
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self.ranks.world_size

    def get_tp_size(self) -> int:
        """Processes that share one model by tensor parallelism; there is none yet."""
        return 1

    def get_cp_size(self) -> int:
        """Processes that share one row by context parallelism; there is none yet."""
        return 1

    def get_sp_size(self) -> int:
        """Processes that share one row by sequence parallelism; there is none yet."""
        return 1

    def propagate_args_to_deepspeed(self, auto_find_batch_size: bool = False) -> None:
        """Raises ``ConfigError``: there is no DeepSpeed engine yet whose values could be set."""
        raise ConfigError("deepspeed: it is not supported yet; leave it out.")

    # -- the hub -------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None) -> None:
        """Make the repository that ``hub.*`` names, unless it exists."""
        config = self.config
        if token is not None:
            config = replace(config, hub=replace(config.hub, hub_token=token))
        asked = replace(config, hub=replace(config.hub, push_to_hub=True))
        self.publisher = make_publisher(asked, RunFolder(path=self.output_dir), self.ranks)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the card of the trained model, ``README.md``, with what the program knows of it besides."""
        if self.run is None:
            raise ConfigError("create_model_card: nothing was trained yet; call train() first.")
        if not self.is_world_process_zero():
            return
        told: dict[str, Any] = {
            "language": language,
            "license": license,
            "tags": tags,
            "model_name": model_name,
            "finetuned_from": finetuned_from,
            "tasks": tasks,
            "dataset_tags": dataset_tags,
            "dataset": dataset,
            "dataset_args": dataset_args,
        }
        known = {name: value for name, value in told.items() if value is not None}
        facts = replace(facts_of(self.config, self.run, self.output_dir), **known)
        path = self.output_dir / "README.md"
        path.unlink(missing_ok=True)  # it may be a link to another file
        path.write_text(model_card(facts), encoding="utf-8")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **card: Any,
    ) -> Any:
        """Save the model, write its card with the fields in ``card``, and publish both.

        Returns the commit, or unless ``blocking`` its future; None on other processes than the main one.
        """
        self.save_model(_internal_call=True)
        if self.publisher is None or token is not None:
            self.init_hf_repo(token)
        if self.publisher is None:
            return None
        if self.run is not None:
            self.create_model_card(**card)
        self.callback_handler("on_push_begin")
        return self.publisher.push_final(commit_message or "End of training", blocking, revision)
