"""Every entry of every catalog resolves, has documented and typed options, and every plug-in is listed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.plugins import Catalog, Entry, options_of, resolve, thing_of
from trainer.objectives.options import CausalLMOptions
from trainer.plugins import CATALOGS
from trainer.state import EVENTS

ROOT = Path(__file__).resolve().parents[2]

# Where each kind's plug-ins stand, and modules there that are none.
PLACES: dict[str, tuple[str, set[str]]] = {
    "callbacks": ("callbacks", {"default_flow", "watched_metric"}),
    "collators": ("collators", {"options", "labels", "default"}),
    "formats": ("processors", {"options", "documents", "answers", "folders", "rendering", "review"}),
    "metrics": ("trainer/metrics", {"options", "metric"}),
    "objectives": ("trainer/objectives", {"options", "objective"}),
    "averaging": ("trainer/averaging", {"options", "choice", "schedule_free"}),
    "optimizers": (
        "trainer/optimizers",
        {
            "adafactor_options",
            "builder",
            "groups",
            "lomo_options",
            "low_rank_adam",
            "low_rank_options",
            "options",
            "package_options",
            "per_parameter",
            "projection",
            "state",
        },
    ),
}


def entries() -> Iterator[tuple[str, str, Catalog]]:
    for kind, address in CATALOGS.items():
        for name in resolve(address):
            yield kind, name, resolve(address)
    for name in resolve("models:HEADS"):
        yield "heads", name, resolve("models:HEADS")


POSITIONAL = {"early_stopping", "progress"}  # programs make them by position, as the reference's
ENTRIES = list(entries())
IDS = [f"{kind}-{name}" for kind, name, _ in ENTRIES]


def _addresses(entry: Entry) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else entry


def test_catalogs_are_literal() -> None:
    assert len(ENTRIES) >= 15
    for _, _, catalog in ENTRIES:
        assert type(catalog) is dict
        for entry in catalog.values():
            assert all(isinstance(address, str) and address.count(":") == 1 for address in _addresses(entry))


@pytest.mark.parametrize(("kind", "name", "catalog"), ENTRIES, ids=IDS)
def test_every_entry_resolves_and_is_documented(kind: str, name: str, catalog: Catalog) -> None:
    thing = thing_of(catalog, name, kind)
    assert callable(thing)
    assert inspect.getdoc(thing), f"{kind} {name} has no docstring"
    if kind == "heads":
        return
    options = options_of(catalog, name, kind)
    assert dataclasses.is_dataclass(options)
    assert options.__doc__
    assert not options.__doc__.startswith(f"{options.__name__}("), "written by a person"
    assert options is thing or options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    fields = dataclasses.fields(options)
    assert name in POSITIONAL or all(field.kw_only for field in fields)
    assert "name" not in {field.name for field in fields}, "a section's name is the catalog's key"


REQUIRED: dict[str, tuple[str, ...]] = {
    "callbacks": EVENTS,
    "collators": ("__call__",),
    "formats": ("encode", "encode_batch", "report", "texts"),
    "heads": ("forward", "from_config", "outputs", "prepare", "reads", "inputs"),
    "metrics": ("names", "needs_logits", "reset", "update", "state", "compute"),
    "models": ("forward",),
    "objectives": (
        "__call__",
        "weights",
        "predict",
        "predictions",
        "collator",
        "after_update",
        "head",
        "coefficients",
    ),
    "averaging": (),
    "optimizers": (),
    "schedules": (),
}
RATES = ("set", "note", "get_last_lr", "state_dict", "load_state_dict")
# What some schedules must be told.
NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 3},
}


@pytest.mark.parametrize(("kind", "name", "catalog"), ENTRIES, ids=IDS)
def test_every_entry_keeps_the_protocol_of_its_kind(kind: str, name: str, catalog: Catalog) -> None:
    thing = thing_of(catalog, name, kind)
    missing = [attribute for attribute in REQUIRED[kind] if not hasattr(thing, attribute)]
    assert missing == []
    if kind == "schedules":
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        rates = thing(options_of(catalog, name, kind)(**NEEDED.get(name, {})), optimizer, 10)
        for updates in range(10):
            rates.set(updates)
            assert 0 <= rates.get_last_lr()[0] <= 0.5
        assert [attribute for attribute in RATES if not callable(getattr(rates, attribute))] == []
    if kind == "objectives":
        objective: Any = (
            thing(CausalLMOptions()) if name == "causal_lm" else thing(options_of(catalog, name, kind)())
        )
        assert objective.head in resolve("models:HEADS")
        for packing in (True, False):
            assert objective.collator(packing=packing) in resolve("collators:CATALOG")
    if kind == "models":
        assert "tiny" in options_of(catalog, name, kind).presets  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", PLACES)
def test_every_plug_in_file_is_listed(kind: str) -> None:
    folder, others = PLACES[kind]
    named = {_addresses(entry)[-1].partition(":")[0] for entry in resolve(CATALOGS[kind]).values()}
    listed = {module for module in named if module.rpartition(".")[0] == folder.replace("/", ".")}
    modules = {file.stem for file in (ROOT / folder).glob("*.py")} - {"__init__"}
    assert others <= modules, "what is no plug-in is still there"
    assert {module.rpartition(".")[2] for module in listed} == modules - others


def test_every_model_family_is_listed() -> None:
    families = {file.parent.name for file in (ROOT / "models").glob("*/model.py")}
    assert families == {name.replace("-", "_") for name in resolve("models:CATALOG")}
    for family in families:
        assert {"config.py", "convert.py"} <= {file.name for file in (ROOT / "models" / family).iterdir()}


@pytest.mark.parametrize("package", ["callbacks", "collators", "models", "processors"])
def test_documented_names_resolve(package: str) -> None:
    module = import_module(package)
    names = module._PUBLIC
    assert names
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = module.Nonsense
