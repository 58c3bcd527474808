"""The training loop: what training is, on one page.

One step is one optimizer update. Its micro-batches are run one after the other; every loss is a sum that is
divided once by the weight (tokens, examples) of the whole step over all ranks, so that the update does not
depend on how the step was split. Logging, evaluating, saving and stopping are done when the control's flags
say so; callbacks set them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from conf.errors import NonFiniteError
from trainer.batch_size import Propagate, Terms, fitting
from trainer.log import StepResult
from trainer.run import MicroBatch, Run
from trainer.state import TrainerState


def train(run: Run) -> TrainerState:
    """Train until ``state.max_steps``, or until a callback or a signal stops it.

    Raises ``NonFiniteError`` before any update is made from a loss or gradient that is not finite.
    """
    state, control, tell = run.state, run.control, run.callbacks
    propagate = fitting(forward_backward) if run.options.finds_batch_size else forward_backward
    tell("on_train_begin")
    if run.options.evaluate_on_start and state.global_step == 0:
        run.evaluate(counts=False)
    run.model.train()
    while state.global_step < state.max_steps and not control.should_training_stop:
        if run.at_epoch_start:
            control.new_epoch()
            tell("on_epoch_begin")
        control.new_step()
        tell("on_step_begin")
        run.window.add(optimizer_step(run, propagate))
        state.global_step += 1
        state.epoch = run.batches.epoch
        tell("on_step_end")
        if control.should_epoch_stop:
            run.batches.skip_epoch()
        if run.batches.is_epoch_end or state.global_step >= state.max_steps:
            tell("on_epoch_end")
        act(run)
    run.save_last()
    run.settle_weights()
    run.log_summary()
    tell("on_train_end")
    return state


def optimizer_step(run: Run, propagate: Propagate) -> StepResult:
    """One update from the next micro-batches: weigh, forward and backward each, clip, step."""
    micro_batches = next(run.batches)
    run.weigh(micro_batches)
    run.optimizer.zero_grad(set_to_none=True)
    run.rates.set(run.updates)
    partial = propagate(run, micro_batches)
    grad_norm = run.clip()
    sums, metrics = run.reduce(partial)
    if not run.may_update(sums, grad_norm):
        raise NonFiniteError(run.describe_non_finite(partial, grad_norm))
    run.callbacks("on_pre_optimizer_step")
    run.update()
    run.callbacks("on_optimizer_step")
    return run.result(sums, grad_norm, run.objective.after_update(run.model, metrics))


def forward_backward(run: Run, micro_batches: Sequence[MicroBatch]) -> list[Terms]:
    """Add up the gradients of a step's micro-batches; gives the summed terms and metrics of each."""
    weights, coefficients = run.divisors, run.objective.coefficients
    partial: list[Terms] = []
    for index, batch in enumerate(micro_batches):
        last = index == len(micro_batches) - 1
        with run.ranks.forward(run.model, last=last):
            loss = run.objective(run.model, run.ranks.to_device(batch))
        if not loss.propagated:
            shares = (value * (coefficients[term] / weights[term]) for term, value in loss.terms.items())
            run.ranks.backward(reduce(add, shares))
        if not last:
            run.callbacks("on_substep_end")
        sums = {**loss.terms, **loss.metrics}
        partial.append({name: value.detach() for name, value in sums.items()})
    return partial


def act(run: Run) -> None:
    """Log, evaluate, save and stop, as the control's flags say.

    Saving comes last, so that a checkpoint holds everything that was said of its step.
    """
    control = run.control
    if run.stop_requested:
        control.should_training_stop = control.should_save = True
    if control.should_log and not run.window.is_empty:
        run.log(run.window.line())
    if control.should_evaluate:
        run.evaluate()
    if control.should_save:
        run.save()
