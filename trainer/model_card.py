"""The ``README.md`` beside a trained model: what it is, what it learned from and how, and what came of it.

Written with each final model. The first part is the metadata that a model hub reads (its documentation's
page model-cards), the rest is for people. No value whose name sounds like a secret gets in, and nothing that
differs between two equal runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import product, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.decode import leaves
from trainer.config import RunConfig, public
from trainer.data.sources import SUFFIXES
from trainer.prepare import ROOTS
from trainer.ranks.ranks import unwrap
from trainer.reports import is_timing

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from trainer.run import Run

Names = str | Sequence[str] | None

TAG = "stockpot"
LIBRARIES = ("stockpot", "torch", "accelerate", "datasets", "tokenizers", "safetensors")
MAX_ROWS = 50  # of the table of results
# What of the configuration is told.
TOLD = ("objective", "optimizer", "schedule", "training", "precision", "data.max_length", "data.packing")
SECRET = re.compile(r"token(?!iz|s\b|s_)|key|secret|passw|credential", re.IGNORECASE)
# The end of an architecture's name -> its task at the hub.
TASKS = {
    "ForCausalLM": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
}
# Metrics that the hub knows by these names.
METRICS = (
    "accuracy",
    "bleu",
    "cer",
    "f1",
    "matthews_correlation",
    "pearsonr",
    "perplexity",
    "precision",
    "recall",
    "rouge",
    "sacrebleu",
    "spearmanr",
    "wer",
)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card tells; the first nine are the reference's (main_classes/trainer, ``create_model_card``).

    ``dataset_tags`` are ids at the hub; ``dataset`` and ``dataset_args`` are their names and configurations
    in the same order. ``finetuned_from`` is an id at the hub or a folder. ``metrics`` are those of the model
    as it is saved, ``log_history`` is the state's; evaluation metrics are named ``eval_...``.
    """

    model_name: str
    language: Names = None
    license: str | None = None
    tags: Names = None
    finetuned_from: str | None = None
    tasks: Names = None
    dataset_tags: Names = None
    dataset: Names = None
    dataset_args: Names = None
    architecture: str | None = None
    objective: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    log_history: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def card_of(config: RunConfig, run: Run, folder: Path) -> str:
    """The card of a run as it stands."""
    return model_card(facts_of(config, run, folder))


def _source_of(config: Any) -> str | None:
    """Where a model's configuration says that it came from."""
    return getattr(config, "name_or_path", None) or getattr(config, "_name_or_path", None)


def facts_of(config: RunConfig, run: Run, folder: Path) -> CardFacts:
    """What a run knows of itself; a caller who knows more replaces fields."""
    model = unwrap(run.model)
    architecture = getattr(model, "architecture", type(model).__name__)
    state = run.state
    step = state.best_global_step if run.checkpointer.best_loaded else None
    evaluations = [line for line in state.log_history if _is_evaluation(line)]
    of_model = [line for line in evaluations if step is None or line["step"] == step]
    sources = config.data.train
    hub = {s.path: s.config for s in sources.values() if _is_hub_id(s.path, ROOTS)}
    return CardFacts(
        model_name=(config.hub.hub_model_id or folder.absolute().name).split("/")[-1],
        tags=getattr(model, "model_tags", ()),
        finetuned_from=config.model.path or _source_of(getattr(model, "config", None)),
        tasks=[task for ending, task in TASKS.items() if architecture.endswith(ending)],
        dataset_tags=list(hub),
        dataset=list(hub) or list(sources),
        dataset_args=[args or "" for args in hub.values()],
        architecture=architecture,
        objective=config.objective.name,
        hyperparameters={path: value for path, value in leaves(public(config)) if path.startswith(TOLD)},
        metrics=of_model[-1] if of_model else {},
        log_history=state.log_history,
        versions=library_versions(),
    )


def library_versions() -> dict[str, str]:
    """The versions of the libraries that a training rests on, as installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout
            continue
    return found


def model_card(facts: CardFacts) -> str:
    """The text of ``README.md``."""
    sections = [
        f"---\n{_metadata(facts)}\n---",
        f"# {facts.model_name}",
        "<!-- Written by Stockpot from what the training knew: please read and complete it. -->",
        _introduction(facts),
        _list("## Evaluation", {_title(name): value for name, value in _results(facts.metrics).items()}),
        _list("## Hyperparameters", {f"`{name}`": value for name, value in _told(facts.hyperparameters)}),
        _table("## Results by step", _rows(facts.log_history)),
        _list("## Versions", facts.versions),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(facts: CardFacts) -> str:
    """YAML as the hub reads it."""
    from huggingface_hub import ModelCardData

    from_hub = facts.finetuned_from and _is_hub_id(facts.finetuned_from)
    tasks = _names(facts.tasks)
    data = ModelCardData(
        language=_names(facts.language) or None,
        license=facts.license,
        base_model=facts.finetuned_from if from_hub else None,
        tags=list(dict.fromkeys([*_names(facts.tags), TAG])),
        datasets=_names(facts.dataset_tags) or None,
        metrics=list(_known(facts.metrics)) or None,
        pipeline_tag=tasks[0] if tasks else None,
        model_name=facts.model_name,
        eval_results=list(_eval_results(facts)) or None,
    )
    if not data.eval_results:
        data.pop("model_name")  # no key of its own at the hub
    return data.to_yaml()


def _eval_results(facts: CardFacts) -> Iterator[EvalResult]:
    """One entry a task, data set and metric; none where one of the three is unknown."""
    from huggingface_hub import EvalResult

    tags = _names(facts.dataset_tags)
    columns = (tags, _names(facts.dataset), _names(facts.dataset_args))
    data_sets = list(zip_longest(*columns))[: len(tags)]
    known = _known(facts.metrics).items()
    for task, (tag, name, args), (metric, (title, value)) in product(_names(facts.tasks), data_sets, known):
        yield EvalResult(
            task_type=task,
            dataset_type=tag,
            dataset_name=name or tag,
            dataset_args=args or None,
            metric_type=metric,
            metric_name=title,
            metric_value=value,
        )


def _introduction(facts: CardFacts) -> str:
    base = facts.finetuned_from
    if not base:
        origin = "was trained from scratch"
    elif _is_hub_id(base):
        origin = f"is a fine-tuned version of [{base}](https://huggingface.co/{base}), trained"
    else:
        origin = f"is a fine-tuned version of a local model ({Path(base).name}), trained"
    data = [f"`{name}`" for name in _names(facts.dataset)]
    learned = f" on {', '.join(data)}" if data else ""
    objective = f" with the objective `{facts.objective}`" if facts.objective else ""
    architecture = f" (`{facts.architecture}`)" if facts.architecture else ""
    return f"This model{architecture} {origin}{learned}{objective}."


def _rows(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each evaluation, or if there was none each logged loss; thinned evenly, the last is kept."""
    evaluated = any(map(_is_evaluation, log_history))
    rows, loss = [], "no log"
    for line in log_history:
        loss = line.get("loss", loss)
        if _is_evaluation(line) if evaluated else "loss" in line:
            place = {"Training Loss": loss, "Epoch": line.get("epoch"), "Step": line.get("step")}
            rows.append(place | {_column(name): value for name, value in _results(line).items()})
    thinning = -(-len(rows) // MAX_ROWS) or 1
    return rows[::-thinning][::-1]


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        [_text(name) for name in columns],
        ["---:"] * len(columns),
        *([_text(row.get(name, "")) for name in columns] for row in rows),
    ]
    return "\n".join([f"{title}\n", *(f"| {' | '.join(line)} |" for line in lines)]) if rows else ""


def _list(title: str, items: Mapping[str, Any]) -> str:
    return (
        "\n".join([f"{title}\n", *(f"- {name}: {_text(value)}" for name, value in items.items())])
        if items
        else ""
    )


def _is_evaluation(line: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in line)


def _results(line: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation metrics of a log line that do not depend on the clock, in its order."""
    return {name: value for name, value in line.items() if name.startswith("eval_") and not is_timing(name)}


def _known(metrics: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Name at the hub -> our title and value, of the metrics that the hub knows."""
    known = {}
    for name, value in _results(metrics).items():
        short = re.sub(r"^rouge1$", "rouge", name.removeprefix("eval_").lower())
        if short in METRICS:
            known[short] = (_title(name), value)
    return known


def _told(hyperparameters: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those that are set, switches that are on among them, and no secret."""
    for name, value in hyperparameters.items():
        if value not in (None, {}, [], "") and value is not False and not SECRET.search(name):
            yield name, value


def _column(name: str) -> str:
    return "Validation Loss" if name == "eval_loss" else _title(name)


def _title(name: str) -> str:
    return " ".join(part.capitalize() for part in name.removeprefix("eval_").split("_"))


def _text(value: Any) -> str:
    """A value in one line that cannot end a cell of a table."""
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _names(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _is_hub_id(name: str, roots: Sequence[str | Path] = ()) -> bool:
    """Whether ``name`` can only be meant as ``owner/name`` of a hub, and is no path of this machine."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.endswith(SUFFIXES) and not any((Path(root) / name).exists() for root in ("", *roots))
