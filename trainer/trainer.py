"""``Trainer``: the door of Python programs to the same loop that a recipe drives.

A program gives its model, data sets and functions; what it overrides becomes the objective, the batches or
the optimizer of a ``Run``. Source of names and behaviour: reference page main_classes/trainer. Where the two
differ on purpose: an evaluation's loss is the mean over all its labels, a run folder that holds a run is
never written over, and a step's loss that is not finite stops the training before the update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from callbacks.default_flow import DefaultFlowCallback
from callbacks.progress import ProgressCallback
from collators.default import default_collator
from conf import logging
from conf.errors import CheckpointError, ConfigError, StoppedError
from models.task_model import TaskModel
from trainer import loop, run_folder
from trainer.arguments import in_flat_names
from trainer.assemble import Parts, assemble, callback_arguments, make_publisher, make_ranks
from trainer.averaging.choice import averaging_of
from trainer.build import callbacks_of_options, objective_of
from trainer.checks import idle_here
from trainer.config import public
from trainer.data.datasets import DatasetRows, is_map_style
from trainer.hub import HubPublisher
from trainer.memory import MemoryMetrics
from trainer.methods.checks import decoded, idle_beside_brought, in_words_of_programs, refuse
from trainer.methods.data import DataMethods, num_rows_of
from trainer.methods.evaluation import EvaluationMethods
from trainer.methods.model import ModelMethods
from trainer.methods.module_loss import ModuleLoss
from trainer.methods.optimization import OptimizationMethods
from trainer.methods.program import ProgramFiles, ProgramRun
from trainer.methods.reports import ReportMethods
from trainer.methods.search import SearchMethods, TrialRun, TrialSearch
from trainer.methods.steps import StepMethods
from trainer.model_files import ModelFiles
from trainer.model_options import apply_options
from trainer.plan import Plan, make_plan
from trainer.predictions import TrainOutput
from trainer.reports import save_metrics
from trainer.run import Run, StepStream
from trainer.run_folder import RunFolder
from trainer.schedules import Rates
from trainer.seeding import full_determinism, set_seed, set_threads
from trainer.special_tokens import align_special_tokens
from trainer.state import Callbacks, TrainerCallback, TrainerControl, TrainerState
from trainer.training_arguments import TrainingArguments

logger = logging.get_logger(__name__)


class Trainer(
    StepMethods,
    DataMethods,
    EvaluationMethods,
    OptimizationMethods,
    ModelMethods,
    ReportMethods,
    SearchMethods,
):
    """Trains, evaluates and predicts with any module that returns a loss first.

    ``model`` or ``model_init`` (called with nothing, or with a trial) gives the module; ``data_collator``
    makes a batch of a list of rows; ``eval_dataset`` may be a dict of several. ``compute_loss_func(outputs,
    labels, num_items_in_batch)`` and ``compute_metrics(EvalPrediction)`` are the program's, ``optimizers`` a
    pair of what it made itself. Everything else is in ``args``. Raises ``ConfigError`` with every problem of
    those.
    """

    own_training_step = StepMethods.training_step
    generates: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[Sequence[Any]], Mapping[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., Mapping[str, Any]] | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
    ):
        self.args = TrainingArguments() if args is None else args
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class, self.model_init = processing_class, model_init
        self.data_collator = data_collator or default_collator(processing_class)
        self.compute_loss_func, self.compute_metrics = compute_loss_func, compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.place_model_on_device, self.is_model_parallel = True, False
        self.is_in_train = False
        self.made_optimizers: tuple[Any, Any] = (None, None)  # by a training, not by the program
        self.run: ProgramRun | None = None
        self.model_files: ModelFiles | None = None
        self.ignored_keys: list[str] | None = None
        self.ignored_in_training: list[str] | None = None
        self.publisher: HubPublisher | None = None
        self.trial: Any = None  # what a training is a trial of, and the search it belongs to
        self.search: TrialSearch | None = None
        self.hp_name: Callable[[Any], str] | None = None
        with in_words_of_programs():
            self._set_up(model, callbacks or ())

    def _set_up(
        self, model: nn.Module | None, callbacks: Sequence[TrainerCallback | type[TrainerCallback]]
    ) -> None:
        """Judge what was given, then start the machine and make the rest."""
        self.config, self.given = decoded(self.args)
        refuse(self, model)
        logging.set_verbosity(self.args.get_process_log_level())
        self.output_dir = Path(self.config.output_dir or "trainer_output")
        self.memory = MemoryMetrics(enabled=not self.config.logging.skip_memory_metrics)
        with self.memory.stage("init"):
            set_seed(self.config.training.seed)
            self.ranks = make_ranks(self.config)
            launched = self.ranks.launched
            self.num_threads = set_threads(self.config.training.num_threads, launched.local_world_size)
            self._take(self.call_model_init() if model is None else model)
            given = [each() if isinstance(each, type) else each for each in callbacks]
            self.callbacks: list[TrainerCallback] = [
                ProgressCallback(),
                *callbacks_of_options(self.config),
                *given,
            ]
            self.state, self.control = self._first_state(), TrainerControl()
            self.callback_handler = self._first_handler()
            if self.config.hub.push_to_hub:
                self.init_hf_repo()
        device, world_size = self.ranks.device.type, self.ranks.world_size
        idle = idle_here(self.config, self.given, device=device, world_size=world_size)
        for note in (*idle, *idle_beside_brought(self)):
            logger.warning(in_flat_names(note))
        self.callback_handler("on_init_end")

    def _first_state(self) -> TrainerState:
        return TrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
        )

    def _first_handler(self) -> Callbacks:
        """What tells the callbacks of things before there is a training."""
        return Callbacks(
            [DefaultFlowCallback(), *self.callbacks],
            args=callback_arguments(self.config),
            state=self.state,
            control=self.control,
            model=self.model,
            processing_class=self.processing_class,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            train_dataloader=None,
            eval_dataloader=None,
        )

    # -- train ---------------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train to the end, or on from a checkpoint: its path, or True for the newest in ``output_dir``.

        The run folder is as that of a recipe's run; the model ends in it, with its card. ``model_init`` is
        called with the ``trial`` of a search, and the state tells of it. Raises ``ConfigError``,
        ``CheckpointError``, ``DataError``, ``NonFiniteError``, and ``StoppedError`` after a signal.
        """
        if trial is not None and not (isinstance(trial, Mapping) or hasattr(trial, "params")):
            raise ConfigError(
                f"trial: an Optuna trial or a dict is wanted, a {type(trial).__name__} was given."
            )
        self.ignored_in_training = ignore_keys_for_eval
        self.is_in_train, self.trial = True, trial
        try:
            with in_words_of_programs(), ExitStack() as undo:
                self.config, self.given = decoded(self.args)
                if self.config.training.full_determinism:
                    undo.enter_context(full_determinism(self.config.training.seed))
                with self.memory.stage("train"):
                    run = self.run = self._built(self._folder(resume_from_checkpoint), undo)
                    with run.interrupt:
                        loop.train(run)
                return self._finished(run)
        finally:
            self.is_in_train, self.trial = False, None

    def _folder(self, resume: str | bool | None) -> RunFolder:
        """Where this run is and what it goes on from; every process hears what the main one found."""
        if resume is None:
            wanted = self.config.resume
        else:
            wanted = "auto" if resume is True else str(resume) if resume else None
        folder = None
        if self.ranks.is_main:
            folder = run_folder.find(self.config.output_dir, wanted, "trainer")
            if wanted == "auto" and folder.checkpoint is None:
                raise CheckpointError(
                    f"resume_from_checkpoint: {folder.path} has no checkpoint; leave it out to start afresh."
                )
            run_folder.open_folder(folder, logger.info)
        folder = self.ranks.gather(folder)[0]
        self.output_dir = folder.path
        return folder

    def _built(self, folder: RunFolder, undo: ExitStack) -> ProgramRun:
        """The run of what the program gave, at the beginning or where ``folder``'s checkpoint is."""
        self._forget()
        files = self._prepare_model(folder, undo)
        batches = self._train_stream()
        plan = self._plan(batches)
        rates = self._optimization(files.names(self.model), plan.max_steps)
        self._open(folder, plan)
        run = assemble(
            self.config,
            plan,
            self._parts(files, batches, rates),
            folder=folder,
            ranks=self.ranks,
            num_threads=self.num_threads,
            say=logger.warning,
            undo=undo,
        )
        assert isinstance(run, ProgramRun)
        run.trainer = self
        self.model_wrapped, self.state, self.control = run.model, run.state, run.control
        self.callback_handler = run.callbacks
        if self.trial is not None:
            run.state.is_hyper_param_search = True
            run.state.init_training_references(
                self, run.state.max_steps, run.state.num_train_epochs, self.trial
            )
        if folder.checkpoint is not None:
            for note in run.checkpointer.restore(run, folder.checkpoint):
                logger.warning(note)
        if self.ranks.is_main:
            run.metrics_file.cut_after(run.state.global_step)
        return run

    def _forget(self) -> None:
        """Let a second training begin with an optimizer of its own, and a fresh model if it can be made."""
        optimizer, scheduler = self.made_optimizers
        self.optimizer = None if self.optimizer is optimizer else self.optimizer
        self.lr_scheduler = None if self.lr_scheduler is scheduler else self.lr_scheduler
        if self.model_init is not None and (self.run is not None or self.trial is not None):
            set_seed(self.config.training.seed)
            self._take(self.call_model_init(self.trial))

    def _prepare_model(self, folder: RunFolder, undo: ExitStack) -> ModelFiles:
        """Give the model the checkpoint's weights and everything the arguments ask for; how it is saved."""
        self.model_files = None
        files = self.model_files = self._files()
        if folder.checkpoint is not None:
            files.load(self.model, folder.checkpoint)
        for note in (
            align_special_tokens(self.model, self.processing_class),
            *apply_options(self.model, self.config.training, undo),
        ):
            if note:
                logger.warning(note)
        return files if type(self).save_model is ModelMethods.save_model else ProgramFiles(self, files)

    def _open(self, folder: RunFolder, plan: Plan) -> None:
        """Compare with what the checkpoint was trained with, and say and write what is about to be done."""
        config = public(self.config)
        if folder.checkpoint is not None:
            for note in run_folder.compare_with(folder, config, plan.rows_per_step):
                logger.warning(in_flat_names(note))
            saved = run_folder.saved_state(folder)["num_threads"]
            self.num_threads = set_threads(self.config.training.num_threads or saved, 1)
        for name, text in plan.lines():
            logger.info("%s: %s", name, text)
        if self.ranks.is_main:
            run_folder.write(folder, config, plan.to_dict())
        if self.publisher is None:
            self.publisher = make_publisher(self.config, folder, self.ranks)
        else:
            self.publisher.output_dir = folder.path

    def _parts(self, files: ModelFiles, batches: StepStream, rates: Rates) -> Parts:
        return Parts(
            model=self.model,
            objective=self._objective(),
            optimizer=self.optimizer,
            rates=rates,
            batches=batches,
            evaluator=_not_asked,
            callbacks=self.callbacks,
            processor=self.processing_class,
            saves_processor=not isinstance(files, ProgramFiles),
            flops=self.floating_point_ops,
            files=files,
            main_input_name=getattr(self.model, "main_input_name", "input_ids"),
            eval_dataloader=self.eval_dataset,
            publisher=self.publisher,
            averaging=averaging_of(self.config, self.optimizer),
            run_type=ProgramRun if self.search is None else TrialRun,
            announced=True,
        )

    def _plan(self, batches: StepStream) -> Plan:
        dataset = self.train_dataset
        is_own = type(self).get_train_dataloader is DataMethods.get_train_dataloader
        rows = DatasetRows(dataset) if is_own and is_map_style(dataset) else None
        steps_per_epoch = getattr(batches, "steps_per_epoch", None)
        if rows is None and steps_per_epoch is None and self.config.training.max_steps == -1:
            raise ConfigError("max_steps: the training data has no known length; say how many steps to make.")
        parameters = list(self.model.parameters())
        trained = [p for p in parameters if p.requires_grad]
        return make_plan(
            self.config,
            rows=rows,
            validation_documents=num_rows_of(self.eval_dataset),
            world_size=self.ranks.world_size,
            parameters=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in trained),
            weight_bytes=sum(p.nbytes for p in parameters),
            activation_bytes=None,
            processor_bytes=0,
            state_tensors=self.config.optimizer.options.state_tensors,
            plugins={},
            steps_per_epoch=steps_per_epoch,
        )

    def _objective(self) -> Any:
        """A training method of this library for its own models, else the program's loss."""
        heard = (
            "compute_loss",
            "training_step",
            "prediction_step",
            "compute_loss_context_manager",
            "autocast_smart_context_manager",
        )
        overridden = any(getattr(type(self), name) is not getattr(StepMethods, name) for name in heard)
        if isinstance(self.model, TaskModel) and not overridden and self.compute_loss_func is None:
            objective = objective_of(self.config)
            if objective.head == getattr(self.model.head, "name", None):
                return objective
        return ModuleLoss(self)

    def _finished(self, run: Run) -> TrainOutput:
        """The model at the top of the run folder, and what the training came to."""
        if run.publisher is not None:
            run.publisher.finish()
        if run.stop_requested:
            raise StoppedError(
                run.interrupt.signal_number,
                f"stopped by a signal at step {run.state.global_step}, saved in "
                f"{run.checkpointer.last_saved}.",
            )
        run.checkpointer.save_final(run)
        metrics = {**run.summary(), "epoch": run.state.epoch, **self.memory.metrics("train")}
        # What was said at the end of the loop counts, and not how long it took to save since.
        lines = reversed(run.state.log_history)
        said: Mapping[str, Any] = next((line for line in lines if "train_runtime" in line), {})
        metrics |= {name: value for name, value in said.items() if name in metrics}
        if run.ranks.is_main:
            save_metrics(self.output_dir, "train", {**run.results(), **metrics})
        if run.publisher is not None:
            run.callbacks("on_push_begin")
            run.publisher.push_final()
        return TrainOutput(run.state.global_step, metrics["train_loss"], metrics)


def _not_asked(model: nn.Module, after_batch: Callable[[], None] | None = None) -> dict[str, float]:
    raise AssertionError("a program's run evaluates by Trainer.evaluate")
