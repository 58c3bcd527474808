"""Before the plan: the tokenizer and the token cache of every source, made once and then mapped.

Making them happens in a child process, so that training starts without the memory it took; one process of a
node makes them, the others wait for the files and not in a collective. Torch is not imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from conf.compose import RECIPES
from conf.decode import decode, encode
from conf.errors import CheckpointError, ConfigError, DataError
from conf.plugins import options_of, thing_of
from models import CATALOG as FAMILIES
from models.config import ModelConfig
from models.config_files import read_config_file
from processors import FORMATS, Tokenizer, templates, train_tokenizer
from processors.folders import has_tokenizer
from processors.options import TrainOptions
from trainer.checks import strength
from trainer.config import ProcessorSection, RunConfig, SourceSection, public
from trainer.data.cache import TokenRows, content_key
from trainer.data.sources import Source, SourceOptions
from trainer.data.streaming import StreamBatches
from trainer.data.tokenizing import TokenizedSource, tokenize_source
from trainer.ranks import launch_environment

ROOTS = (str(RECIPES),)
Say = Callable[[str], None]
Judge = Callable[[RunConfig, ModelConfig], object]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data and the processor of a run, ready to be mapped."""

    tokenizer: Tokenizer
    train: Mapping[str, TokenRows]
    validation: Mapping[str, TokenRows]
    test: Mapping[str, TokenRows]
    notes: tuple[str, ...]


def prepare(config: RunConfig, say: Say, *, judge: Judge, plugins: tuple[str, ...] = ()) -> Prepared:
    """Open what is cached, after making what is not, before which ``judge`` may refuse the model.

    Raises ``DataError`` or ``CheckpointError``, and what ``judge`` raises.
    """
    work = Preparation(config)
    if not work.is_done():
        if launch_environment().local_rank == 0:
            judge(config, model_config(config))
            say("preparing the data (once; it is cached) ...")
            _in_child(config, plugins)
        else:
            _wait(work)
    return work.open()


def settled(config: RunConfig, given: Mapping[str, str]) -> RunConfig:
    """The configuration without a chat template that ``model.path`` makes idle: its own wins.

    Unless ``processor.chat_template`` was given as strongly (the command line over the recipe).
    """
    path, template = config.model.path, config.processor.chat_template
    if path is None or template is None or not has_tokenizer(path):
        return config
    if strength("processor.chat_template", given) >= strength("model.path", given):
        return config
    if not Tokenizer.load(path).chat_templates:
        return config
    return replace(config, processor=replace(config.processor, chat_template=None))


class Preparation:
    """Where the processor and the tokens of a configuration are, or would be."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.cache = cache_dir(config)

    def is_done(self) -> bool:
        if not has_tokenizer(self.processor_folder):
            return False
        return all(work.cached() is not None for work in self._works.values())

    def make(self) -> None:
        """Train or adapt the tokenizer, then tokenize every source."""
        if not has_tokenizer(self.processor_folder):
            _save_once(self._make_tokenizer(), self.processor_folder)
        for work in self._works.values():
            tokenize_source(work)

    def open(self) -> Prepared:
        """Map what is done; ``DataError`` where too many answers were cut."""
        rows: dict[tuple[str, str], TokenRows] = {}
        for place, work in self._works.items():
            found = work.cached()
            assert found is not None, f"{place} was just tokenized"
            rows[place] = found
        return Prepared(
            tokenizer=self._tokenizer,
            train={name: r for (split, name), r in rows.items() if split == "train"},
            validation={name: r for (split, name), r in rows.items() if split == "validation"},
            test={name: r for (split, name), r in rows.items() if split == "test"},
            notes=tuple(self._judge(rows)),
        )

    # -- the processor -------------------------------------------------------------------------------

    @cached_property
    def processor_folder(self) -> Path:
        """The model's folder or the given one; a cached one if it is trained or its template changes."""
        given = self._given_folder()
        template = self.config.processor.chat_template
        if given is not None:
            if not has_tokenizer(given):
                raise CheckpointError(f"{given}: there is no tokenizer in this folder.")
            if template is None:
                return given
            made_of: Any = Tokenizer.load(given).fingerprint()
        else:
            sections = self.config.data.train.values()
            sources = [[Source(_plain(s), ROOTS).fingerprint(), encode(s.format)] for s in sections]
            made_of = [encode(self.config.processor.tokenizer), sources]
        text = None if template is None else templates.source(template)  # a file's content may change
        return self.cache / content_key(tokenizer=made_of, chat_template=text)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.processor_folder)

    def _given_folder(self) -> Path | None:
        model, processor = self.config.model.path, self.config.processor.tokenizer.path
        if model is not None and has_tokenizer(model):
            return Path(model)
        return None if processor is None else Path(processor)

    def _make_tokenizer(self) -> Tokenizer:
        given, processor = self._given_folder(), self.config.processor
        if given is not None:
            assert processor.chat_template is not None
            return Tokenizer.load(given).with_chat_template(processor.chat_template)
        return train_tokenizer(_Texts(self.config), _train_options(processor), processor.chat_template)

    # -- the sources ---------------------------------------------------------------------------------

    @cached_property
    def _works(self) -> dict[tuple[str, str], TokenizedSource]:
        """What the task needs; a streamed source is tokenized during the training."""
        fingerprint = self._tokenizer.fingerprint()
        data = self.config.data
        splits = {
            "train": (("train", {} if data.streaming else data.train), ("validation", data.validation)),
            "evaluate": (("validation", data.validation),),
            "predict": (("test", data.test),),
        }[self.config.task]
        return {
            (split, name): TokenizedSource(
                source=_plain(section),
                tokenizer=str(self.processor_folder),
                tokenizer_fingerprint=fingerprint,
                cache_dir=str(self.cache),
                max_length=data.max_length,
                check_rows=data.check_rows,
                format_options=encode(section.format.options),
                roots=ROOTS,
            )
            for split, sections in splits
            for name, section in sections.items()
        }

    def _judge(self, rows: Mapping[tuple[str, str], TokenRows]) -> Iterator[str]:
        """Notes on what tokenizing found; ``DataError`` where too many answers were cut."""
        for (split, name), tokens in rows.items():
            report = tokens.report.get("format", {})
            answers, cut = report.get("answers", 0), report.get("answers_cut", 0)
            if cut and cut / answers > self.config.data.max_truncated:
                raise DataError(
                    f"data.{split}.{name}: {cut} of {answers} answers are longer than data.max_length="
                    f"{self.config.data.max_length} and would be cut; raise it, or allow a share of "
                    f"{cut / answers:.3f} by data.max_truncated."
                )
            if cut:
                limit = self.config.data.max_length
                yield f"data.{split}.{name}: {cut} of {answers} answers are cut at {limit} tokens."
            yield from (f"data.{split}.{name}: {note}" for note in report.get("template_notes", ()))


@dataclass(frozen=True)
class _Texts:
    """Every text of the training sources, for a tokenizer to be trained on; read again each time."""

    config: RunConfig

    def __iter__(self) -> Iterator[str]:
        for section in self.config.data.train.values():
            texts = thing_of(FORMATS, section.format.name, "format").texts
            for row in Source(_plain(section), ROOTS).rows():
                yield from texts(section.format.options, row.values)


def stream_of(
    config: RunConfig, prepared: Prepared, collator: Any, *, rank: int, world_size: int
) -> StreamBatches:
    """The training sources, tokenized while they are trained on."""
    training, data = config.training, config.data
    sources = []
    for name, section in data.train.items():
        path = f"data.train.{name}.format"
        make = thing_of(FORMATS, section.format.name, path)
        form = make(section.format.options, tokenizer=prepared.tokenizer, max_length=data.max_length)
        sources.append((Source(_plain(section), ROOTS), form))
    return StreamBatches(
        sources,
        collator,
        seed=training.order_seed,
        per_device_batch_size=training.per_device_train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        rank=rank,
        world_size=world_size,
        capacity=data.max_length if data.packing else None,
        shuffle=data.shuffle,
        block_rows=data.shuffle_block,
        num_workers=data.dataloader_num_workers,
        prefetch_factor=data.dataloader_prefetch_factor or 2,
        pin_memory=data.dataloader_pin_memory,
        persistent_workers=data.dataloader_persistent_workers,
    )


def cache_dir(config: RunConfig) -> Path:
    """``data.cache_dir``, else ``$STOCKPOT_CACHE``, else ``~/.cache/stockpot``."""
    chosen = config.data.cache_dir or os.environ.get("STOCKPOT_CACHE") or "~/.cache/stockpot"
    return Path(chosen).expanduser()


def model_config(config: RunConfig, tokenizer: Tokenizer | None = None) -> ModelConfig:
    """The model's facts: of ``model.path``, or of the preset with the vocabulary of the tokenizer.

    Before there is a tokenizer they say nothing of it. A folder's model that is to be trained grows to the
    tokenizer's vocabulary where that is larger. Raises ``CheckpointError`` for a folder that holds no model,
    ``ConfigError`` for too small a vocabulary.
    """
    model = config.model
    if model.path is not None:
        found = read_config_file(model.path)
        family = options_of(FAMILIES, str(found.get("model_type")), f"{model.path}/config.json: model_type")
        facts: ModelConfig = family.from_dict(found)
    else:
        assert model.preset is not None
        known = {} if tokenizer is None else _of_vocabulary(tokenizer)
        facts = options_of(FAMILIES, model.name, "model.name").preset(
            model.preset, **{**known, **model.config}
        )
    if tokenizer is None:
        return facts
    vocab_size = getattr(facts, "vocab_size", len(tokenizer))
    if vocab_size < len(tokenizer) and model.path is not None and config.task == "train":
        padding = tokenizer.pad_token_id
        new = {} if padding is None or padding < vocab_size else {"pad_token_id": padding}
        return facts.update({"vocab_size": len(tokenizer), **new})
    if vocab_size < len(tokenizer):
        raise ConfigError(
            f"model: its vocabulary of {vocab_size} is smaller than the tokenizer's {len(tokenizer)}; take "
            "the tokenizer of the model's own folder."
        )
    return facts


def _of_vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a fresh model is told of its tokenizer."""
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    return {"vocab_size": len(tokenizer), **ids}


def _plain(section: SourceSection) -> SourceOptions:
    values = {f.name: getattr(section, f.name) for f in fields(SourceOptions)}
    return SourceOptions(**{**values, "format": section.format.name})


def _train_options(processor: ProcessorSection) -> TrainOptions:
    tokenizer = processor.tokenizer
    assert tokenizer.train is not None
    return TrainOptions(**{f.name: getattr(tokenizer, f.name) for f in fields(TrainOptions)})


def _save_once(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer beside and rename; of two that come at once the first stays."""
    staged = folder.with_name(f".{folder.name}-{os.getpid()}")
    tokenizer.save(staged)
    try:
        os.rename(staged, folder)
    except OSError:
        if not (folder / "tokenizer.json").exists():
            raise


def _in_child(config: RunConfig, plugins: tuple[str, ...]) -> None:
    """Run ``main`` below in a process of its own; its error is raised here."""
    request = {"config": public(config), "plugins": list(plugins)}
    paths = [str(RECIPES.parent), os.environ.get("PYTHONPATH", "")]
    child = subprocess.run(
        [sys.executable, "-P", "-m", "trainer.prepare"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if child.returncode:
        errors = {"ConfigError": ConfigError, "DataError": DataError, "CheckpointError": CheckpointError}
        try:
            answer = json.loads(child.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            raise RuntimeError(f"preparing the data failed:\n{child.stderr}") from None
        raise errors[answer["kind"]](answer["message"])


def _wait(work: Preparation) -> None:
    """Until another process of this node has made the files; it ends all of us if it cannot."""
    while not work.is_done():
        time.sleep(0.2)


def main() -> None:
    """The child: read a configuration from standard input, make everything, answer with an error if any."""
    from trainer.plugins import load_plugins

    request: dict[str, Any] = json.loads(sys.stdin.read())
    try:
        load_plugins(request["plugins"])
        Preparation(decode(RunConfig, request["config"])).make()
    except (ConfigError, DataError, CheckpointError) as error:
        print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
