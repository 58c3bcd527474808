"""A few sampled replies, to see with one's own eyes what was learned."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass(kw_only=True)
class SamplesCallback(TrainerCallback):
    """Answers each of ``prompts`` with up to ``max_new_tokens`` tokens, at the end of the training.

    With ``every_evaluation`` also after each evaluation on the way, by the weights as they are then; nothing
    of the training changes by it, as each reply is drawn from a generator of its own, seeded with ``seed``.
    Where the tokenizer has a chat template a prompt is a user's message, else the beginning of a text.
    ``temperature`` 0 takes the likeliest token each time.
    """

    prompts: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0
    every_evaluation: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: at least 1 is wanted, {self.max_new_tokens} was given.")
        if self.temperature < 0:
            raise ValueError(f"temperature: at least 0 is wanted, {self.temperature} was given.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: more than 0 and at most 1 is wanted, {self.top_p} was given.")

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.every_evaluation and state.is_world_process_zero and self.prompts:
            self._show(f"samples at step {state.global_step}", kwargs["model"], kwargs["processing_class"])

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.prompts and state.global_step >= state.max_steps:
            self._show("", kwargs["model"], kwargs["processing_class"])

    def _show(self, title: str, model: Any, tokenizer: Any) -> None:
        replies = (f"> {prompt}\n{self.reply(prompt, model, tokenizer)}\n" for prompt in self.prompts)
        sys.stdout.write("\n".join([title, *replies, ""]))
        sys.stdout.flush()

    def reply(self, prompt: str, model: Any, tokenizer: Any) -> str:
        """The text that the model goes on with."""
        import torch

        from predictor.generate import generate
        from processors.rendering import ChatTemplate, stop_ids

        if tokenizer.chat_templates:
            ids = ChatTemplate(tokenizer).encode([{"role": "user", "content": prompt}])
        else:
            ids = tokenizer.encode(prompt)
        sampling: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        output = generate(
            model,
            torch.tensor([ids], device=next(model.parameters()).device),
            max_new_tokens=self.max_new_tokens,
            do_sample=self.temperature > 0,
            eos_token_id=stop_ids(tokenizer),
            **(sampling if self.temperature > 0 else {}),
        )
        return tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True).strip()
