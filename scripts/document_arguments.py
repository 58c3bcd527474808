"""Prints trainer/ARGUMENTS.md, the page of all flat arguments, from their table.

python scripts/document_arguments.py > trainer/ARGUMENTS.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from trainer.argument_table import (  # noqa: E402
    ARGUMENTS,
    DIFFERENT_DEFAULTS,
    REFERENCE_DEFAULTS,
    Argument,
)
from trainer.argument_values import as_data  # noqa: E402
from trainer.training_arguments import defaults  # noqa: E402

HEAD = """\
# Arguments

Every argument of Hugging Face's `TrainingArguments` and `Seq2SeqTrainingArguments` (version 5.0), where it
lives in a recipe, and what it means. In YAML and on the command line it is written by its path, in Python by
its name:

```sh
train.py +recipe=sft_llama optimizer.learning_rate=1e-4
```
```python
from trainer.training_arguments import TrainingArguments

args = TrainingArguments("runs/mine", learning_rate=1e-4)
```

`python scripts/import_arguments.py FILE` turns a JSON or YAML file of such arguments into a recipe. This page
is printed from `trainer/argument_table.py` by `scripts/document_arguments.py`.
"""

TITLES = {
    "": "The run",
    "training": "Training",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "precision": "Precision",
    "data": "Data",
    "evaluation": "Evaluation",
    "checkpoint": "Checkpoints",
    "logging": "Logging",
    "parallel": "Processes and devices",
    "hub": "Hub",
    "generation": "Generation, for sequence to sequence",
}


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *_different(), *_sections(), *_never()])


def _different() -> Iterator[str]:
    yield "## Defaults that differ on purpose\n"
    yield "| argument | here | there | why |\n| --- | --- | --- | --- |"
    usual = defaults()
    for name, why in DIFFERENT_DEFAULTS.items():
        yield f"| `{name}` | {_said(usual[name])} | {_said(REFERENCE_DEFAULTS[name])} | {why} |"
    yield "| `accelerator_config`'s `even_batches` | `false` | `true` | no example is repeated |\n"


def _sections() -> Iterator[str]:
    usual = defaults()
    for section, arguments in groupby(sorted(ARGUMENTS, key=_order), key=_section):
        yield f"## {TITLES[section]}\n"
        yield "| argument | path | default | meaning |\n| --- | --- | --- | --- |"
        for argument in arguments:
            meaning = argument.meaning + _not_yet(argument)
            yield f"| `{argument.name}` | `{argument.path}` | {_said(usual[argument.name])} | {meaning} |"
        yield ""


def _never() -> Iterator[str]:
    yield "## Values that cannot matter here\n"
    for argument in ARGUMENTS:
        for word, reason in argument.never.items():
            yield f"- `{argument.name}`: `{word}` {reason}"
    yield ""


def _section(argument: Argument) -> str:
    first = argument.path.partition(".")[0]
    return first if first in TITLES else ""


def _order(argument: Argument) -> int:
    return [*TITLES].index(_section(argument))


def _not_yet(argument: Argument) -> str:
    """Which values of the argument are carried out so far, and what brings the others."""
    if argument.runs is None:
        return ""
    usual = (None, False, (), as_data(defaults()[argument.name]))
    values = [_said(value) for value in argument.runs if value not in usual or argument.path == "task"]
    only = f"only {' or '.join(values)}" if values else "only as it is"
    return f" *(so far {only}; the rest comes with {argument.brought_by})*"


def _said(value: Any) -> str:
    """A value as YAML says it."""
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{value}`" if value != "" else '`""`'


if __name__ == "__main__":
    sys.stdout.write(page())
