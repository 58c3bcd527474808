"""The command line: compose -> decode -> check -> prepare -> plan -> build -> train.

Everything that can be wrong with a configuration is said before torch is imported; everything that can be
wrong with the data before anything is built.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from conf import compose
from conf.errors import ConfigError, StockpotError, StoppedError
from trainer.ranks import LaunchEnvironment, launch_environment
from trainer.reports import table

if TYPE_CHECKING:
    from models.config import ModelConfig
    from trainer.build import Materials
    from trainer.config import RunConfig
    from trainer.run import Run
    from trainer.run_folder import RunFolder

SWEEP = {"--multirun", "-m"}
SECONDS_FOR_MAIN = 5.0  # in which the main process says an error that all have, and ends the others
SHOWING = {"--cfg", "-c"}
HELP = """\
train.py: train a neural network by one YAML recipe.

  train.py                                        list the recipes
  train.py +recipe=NAME                           train
  train.py +recipe=NAME optimizer.learning_rate=1e-4 training.max_steps=100
  train.py +recipe=NAME check=true                validate, plan, print, build nothing
  train.py +recipe=NAME check=true show=3         and show documents, coloured by what is supervised
  train.py +recipe=NAME output_dir=RUN            choose the run's folder (default runs/NAME/DATE-TIME)
  train.py resume=RUN/checkpoint-500              go on from a checkpoint, exactly
  train.py +recipe=NAME output_dir=RUN resume=auto
  train.py +recipe=NAME model.path=FOLDER         start from a model folder or a finished run
  train.py +recipe=NAME model.path=FOLDER task=evaluate
  train.py +recipe=NAME model.path=FOLDER task=predict data.test.mine.path=FILE data.test.mine.format=chat
  train.py --multirun +recipe=NAME optimizer.learning_rate=1e-4,3e-4
  train.py --multirun +recipe=NAME 'optimizer.learning_rate=tag(log,interval(1e-5,1e-3))' sweep.n_trials=20
  train.py --multirun +recipe=NAME ... output_dir=SWEEP resume=auto
  train.py --config-dir DIR +recipe=MINE          a recipe of your own in DIR/recipe/MINE.yaml
  train.py plugins=FILE.py +recipe=MINE           models, callbacks, ... of your own
  train.py +recipe=NAME --cfg job                 print the composed configuration

Exit status: 0 finished, 2 configuration wrong, 3 loss or gradient not finite,
4 data or checkpoint unusable, 130/143 stopped by a signal after saving.

Groups (choose with GROUP=OPTION):
"""


def main() -> None:
    """The command ``train.py``; ends the process with the documented status."""
    environment = launch_environment()
    try:
        run_command(sys.argv[1:])
    except StoppedError as error:
        _fail(str(error), error.exit_status, environment, of_all=True)
    except StockpotError as error:
        _fail(str(error), error.exit_status, environment)
    except KeyboardInterrupt:
        text = "stopped at once; nothing was saved after the last checkpoint."
        _fail(text, 128 + signal.SIGINT, environment, of_all=True)


def run_command(arguments: Sequence[str]) -> None:
    """Carry out a command line; raises ``StockpotError``, in which no access token is named."""
    try:
        _run(arguments)
    except ConfigError as error:
        from trainer.secrets import hidden

        raise ConfigError([hidden(problem, arguments) for problem in error.problems]) from None


def _run(arguments: Sequence[str]) -> None:
    plugins = tuple(word.partition("=")[2] for word in arguments if word.startswith("plugins="))
    words = [word for word in arguments if not word.startswith("plugins=")]
    if not words:
        _say(list_recipes())
        return
    if "--help" in words or "-h" in words:
        lines = (f"  {name}: {', '.join(options)}" for name, options in compose.groups().items())
        _say(HELP + "\n".join(lines))
        return
    if SHOWING.intersection(words):
        _show_composed(words)
        return
    from trainer.plugins import load_plugins

    loaded = load_plugins(plugins)
    if SWEEP.intersection(words):
        from trainer.sweeps.sweep import sweep

        sweep([word for word in words if word not in SWEEP], plugins)
    elif (composed := compose.compose(words)) is not None:
        _refuse_sweep(composed.given)
        Command(composed, plugins, loaded).carry_out()


def _show_composed(words: Sequence[str]) -> None:
    """Print what Hydra prints for ``--cfg``, without the access token."""
    from trainer.secrets import redacted

    with redirect_stdout(StringIO()) as printed:
        compose.compose(words)
    _say(redacted(printed.getvalue().rstrip("\n")))


def list_recipes() -> str:
    """Every recipe with the line it says of itself."""
    described = {name: compose.describe(file) for name, file in compose.recipes().items()}
    width = max(map(len, described), default=0)
    lines = [f"  {name:<{width}}  {text}" for name, text in described.items()]
    return "\n".join(["Recipes (train.py +recipe=NAME, train.py --help):", *lines])


class Command:
    """One composed command line on its way to a run."""

    def __init__(self, composed: compose.Composed, plugins: tuple[str, ...], loaded: Mapping[str, str]):
        self.composed, self.plugins, self.loaded = composed, plugins, loaded
        self.environment = launch_environment()
        self.found: RunFolder | None = None
        self.say = self.warn = _say if self.environment.is_main else _nothing
        self.began = time.perf_counter()

    def carry_out(self) -> float | None:
        """Train, or with ``check=true`` stop at the plan; returns the metric that a sweep compares."""
        with ExitStack() as undo:
            return self._carry_out(self.decode(), undo)

    def _carry_out(self, config: RunConfig, undo: ExitStack) -> float | None:
        from trainer import run_folder  # only now, as what it imports is slow beside a mistyped key
        from trainer.config import public
        from trainer.prepare import model_config, prepare, settled

        config = settled(config, self.composed.given)
        self.listen_to(config, undo)
        if config.task != "train":
            return self.task(config)
        folder = self.found
        if folder is None and self.environment.is_main:
            folder = run_folder.find(config.output_dir, config.resume, self.composed.recipe)
        prepared = prepare(config, self.say, judge=_judge_model, plugins=self.plugins)
        if config.show:
            self.show(config, prepared)
        facts = model_config(config, prepared.tokenizer)
        materials = self.plan(config, prepared, facts, folder.notes if folder else ())
        if config.check:
            if folder is not None and folder.checkpoint is not None:
                rows = materials.plan.rows_per_step
                for note in run_folder.compare_with(folder, public(config), rows):
                    self.say(note)
            self.say(table(materials.plan.lines()))
            return None
        return self.train(materials, folder, undo)

    def listen_to(self, config: RunConfig, undo: ExitStack) -> None:
        """Speak as ``logging.log_level`` and its like say, until ``undo``; by default rank 0 alone does."""
        from conf import logging

        main, local = self.environment.is_main, self.environment.local_rank == 0
        undo.callback(logging.set_verbosity, logging.get_verbosity())
        if logging.VERBOSITY not in os.environ:
            logging.set_verbosity_info()  # a command reports, a library only warns
        level = logging.process_log_level(
            config.logging.log_level,
            config.logging.log_level_replica,
            is_main=main,
            is_local_main=local,
            log_on_each_node=config.logging.log_on_each_node,
        )
        logging.set_verbosity(level)
        mark = "" if main else f"rank {self.environment.rank}: "

        def speak(text: str) -> None:
            _say("\n".join(mark + line for line in text.split("\n")))

        self.say = speak if level <= logging.INFO else _nothing
        self.warn = speak if level <= logging.WARNING else _nothing

    def task(self, config: RunConfig) -> float | None:
        """Evaluate or predict: nothing is trained."""
        from trainer.prepare import model_config, prepare

        prepared = prepare(config, self.say, judge=_judge_model, plugins=self.plugins)
        if config.show:
            self.show(config, prepared)
        facts = model_config(config, prepared.tokenizer)
        from trainer import tasks  # from here on torch is there

        notes = self._notes(config, facts)
        task = tasks.planned(config, prepared, facts, recipe=self.composed.recipe, notes=notes)
        self.say(table(task.lines()))
        if config.check:
            return None
        return tasks.carry_out(task, self.composed.given, say=self.say, warn=self.warn)

    def decode(self) -> RunConfig:
        """The typed configuration, judged as a whole; a resumed run without a recipe takes the saved one."""
        from trainer.checks import judged, without_foreign

        data = self.composed.data
        given = self.composed.given
        missing: list[str] = []
        if data.get("resume") and self.composed.recipe is None:
            from trainer import run_folder

            self.found = run_folder.resumable(data.get("output_dir"), data["resume"])
            missing = [
                f"plugins: the run was trained with {name}; give it again by plugins=FILE."
                for name in run_folder.saved_plugins(self.found)
                if name not in self.loaded
            ]
            data = run_folder.overlay(run_folder.saved_config(self.found), data, given)
        data, self.notes = without_foreign(data, given)
        try:
            return judged(data, given)
        except ConfigError as error:
            raise ConfigError([*error.problems, *missing]) from None

    def show(self, config: RunConfig, prepared: Any) -> None:
        """Print a few of the documents that the task reads, coloured by what is supervised."""
        from processors import show

        read = {"train": prepared.train, "evaluate": prepared.validation, "predict": prepared.test}
        for name, rows in read[config.task].items():
            for index in range(min(config.show, len(rows))):
                self.say(f"{name}, {rows.place(index)}:\n{show(rows.document(index), prepared.tokenizer)}\n")

    def plan(self, config: RunConfig, prepared: Any, facts: Any, more_notes: Sequence[str]) -> Materials:
        """The numbers of the run; from here on torch is there."""
        from trainer.data.rows import RowSet, require_targets
        from trainer.seeding import set_threads

        threads = set_threads(config.training.num_threads, self.environment.local_world_size)
        rows = None
        if not config.data.streaming:
            rows = RowSet(
                list(prepared.train.values()),
                weights=[source.weight for source in config.data.train.values()],
                seed=config.training.order_seed,
                capacity=config.data.max_length if config.data.packing else None,
            )
            require_targets(rows)
        from trainer.build import planned

        notes = [*prepared.notes, *self._notes(config, facts), *more_notes]
        return planned(
            config, prepared, facts, rows, threads, self.environment.world_size, self.loaded, notes
        )

    def _notes(self, config: RunConfig, facts: Any) -> list[str]:
        notes = list(self.notes)
        if config.model.path is not None:
            given = "gives weights, tokenizer and chat template, as far as it has them."
            notes.append(f"model.path={config.model.path} {given}")
        longest = getattr(facts, "max_position_embeddings", None)
        if longest is not None and config.data.max_length > longest:
            notes.append(
                f"data.max_length={config.data.max_length} is beyond the {longest} positions of the model."
            )
        return notes

    def train(self, materials: Materials, decided: RunFolder | None, undo: ExitStack) -> float | None:
        """Build and train; every rank comes here, rank 0 with the folder it decided."""
        from trainer import build, loop, run_folder
        from trainer.assemble import make_ranks
        from trainer.checks import idle_here
        from trainer.config import public
        from trainer.manifest import require_space
        from trainer.memory import MemoryMetrics
        from trainer.seeding import full_determinism, set_threads

        config = materials.config
        memory = MemoryMetrics(enabled=not config.logging.skip_memory_metrics)
        if config.training.full_determinism:
            undo.enter_context(full_determinism(config.training.seed))
        with memory.stage("init"):
            ranks = make_ranks(config)
            undo.callback(ranks.close)
            device, size = ranks.device.type, ranks.world_size
            idle = idle_here(config, self.composed.given, device=device, world_size=size)
            for note in filter(None, (ranks.note, *idle)):
                self.warn(note)
            folder = ranks.gather(decided)[0]
            assert folder is not None, "rank 0 decides"
            if folder.checkpoint is not None:
                for note in run_folder.compare_with(folder, public(config), materials.plan.rows_per_step):
                    self.say(note)
                threads = config.training.num_threads or run_folder.saved_state(folder)["num_threads"]
                materials = replace(materials, num_threads=set_threads(threads, 1))
            if ranks.is_main:
                run_folder.open_folder(folder, self.say)
                if config.checkpoint.save_strategy != "no":
                    require_space(folder.path, materials.plan.checkpoint_bytes)
                run_folder.write(folder, public(config), materials.plan.to_dict())
                self.say(table(materials.plan.lines()))
            ranks.barrier()
            run = build.build_run(materials, folder, ranks, say=self.say, undo=undo)
        if folder.checkpoint is not None:
            for note in run.checkpointer.restore(run, folder.checkpoint):
                self.say(note)
            self.say(f"going on from {folder.checkpoint} (step {folder.step}).")
        if ranks.is_main:
            run.metrics_file.cut_after(run.state.global_step)
        with memory.stage("train"), run.interrupt:
            loop.train(run)
        return self.finish(run, folder, memory.metrics("train"))

    def finish(self, run: Run, folder: RunFolder, memory: Mapping[str, int]) -> float | None:
        """The final model, the results, and what one can do next; raises ``StoppedError`` after a signal."""
        from trainer.reports import save_metrics

        path = folder.path
        again = f"train.py resume={shlex.quote(str(run.checkpointer.last_saved))}"
        if run.publisher is not None:
            run.publisher.finish()
        if run.stop_requested:
            raise StoppedError(
                run.interrupt.signal_number or signal.SIGTERM,
                f"stopped by a signal at step {run.state.global_step}, saved; go on with: {again}",
            )
        run.checkpointer.save_final(run)
        seconds = time.perf_counter() - self.began
        results = {**run.results(), **memory}
        if run.ranks.is_main:
            save_metrics(path, "train", {**results, "train_runtime": seconds})
            if run.publisher is not None:
                run.callbacks("on_push_begin")
                run.publisher.push_final()
        recipe = f"+recipe={self.composed.recipe} " if self.composed.recipe else ""
        train_on = f"{again} training.max_steps={2 * run.state.global_step}"
        lines = [
            (
                "finished",
                f"{run.state.global_step} steps in {seconds:.0f} s, "
                f"{results['metric_name']} {results['metric']:.4f}",
            ),
            ("run folder", str(path)),
            ("train on", train_on if run.checkpointer.last_saved else "no checkpoint"),
            ("start anew from it", f"train.py {recipe}model.path={shlex.quote(str(path))}"),
        ]
        self.say(table(lines))
        return results["metric"]


def _refuse_sweep(given: Mapping[str, str]) -> None:
    """``ConfigError`` for what only a sweep has a use for; in a recipe it waits for one."""
    for path, where in given.items():
        if path.split(".")[0] == "sweep" and where == "command line":
            raise ConfigError(f"{path}: it is about the jobs of a sweep; add --multirun, or leave it out.")


def _judge_model(config: RunConfig, facts: ModelConfig) -> None:
    """Refuse what does not fit the model while no data is made yet, which may take long."""
    from trainer.build import fitting

    fitting(config, facts)


def _say(text: str) -> None:
    print(text, flush=True)


def _nothing(text: str) -> None:
    """What a rank other than the main one says."""


def _fail(message: str, status: int, environment: LaunchEnvironment, *, of_all: bool = False) -> None:
    """Say why this process ends, and end it. What all processes know to be ``of_all`` the main one says."""
    mark = "train.py: "
    if not environment.is_main and not of_all:
        # An error that all have is the main one's to say too: its launcher ends this process meanwhile. Who
        # lives on has an error of its own.
        time.sleep(SECONDS_FOR_MAIN)
        mark += f"rank {environment.rank}: "
    for line in [*message.splitlines(), f"exit status {status}"]:
        if environment.is_main or not of_all:
            print(f"{mark}{line}", file=sys.stderr, flush=True)
    if environment.world_size > 1:
        os._exit(status)  # not through the process group's teardown, which would wait for the others
    sys.exit(status)
