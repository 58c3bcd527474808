"""A few sampled replies at the end of the training, to see with one's own eyes what was learned."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass(kw_only=True)
class SamplesCallback(TrainerCallback):
    """Answers each of ``prompts`` with up to ``max_new_tokens`` tokens, drawn from a generator of its own.

    Where the tokenizer has a chat template a prompt is a user's message, else the beginning of a text.
    ``temperature`` 0 takes the likeliest token each time.
    """

    prompts: tuple[str, ...] = ()
    max_new_tokens: int = 64
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int = 0

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not self.prompts or state.global_step < state.max_steps:
            return
        for prompt in self.prompts:
            reply = self.reply(prompt, kwargs["model"], kwargs["processing_class"])
            sys.stdout.write(f"\n> {prompt}\n{reply}\n")
        sys.stdout.write("\n")
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
