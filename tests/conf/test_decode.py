"""Plain data to dataclasses: every kind of annotation, every problem with its text, and the way back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from conf import compose, decode
from conf.decode import Chosen, OneOf, decode_fields, decode_leniently, encode, leaves
from conf.errors import ConfigError
from trainer.arguments import HOMES
from trainer.checks import judged
from trainer.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Round:
    """One option of the catalog below."""

    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Square:
    """The other."""

    side: int
    corners: Literal["sharp", "no"] = "sharp"


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section inside a section."""

    count: int = 1
    deep: Round = field(default_factory=Round)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count: 0 or more is wanted, {self.count} was given.")


@dataclass(frozen=True, kw_only=True)
class Everything:
    """One field of each kind."""

    flag: bool = False
    whole: int = 0
    number: float = 0.0
    text: str = ""
    maybe: float | None = None
    mode: Literal["no", "steps", "epoch"] = "no"
    either: str | tuple[str, ...] = ""
    mixed: str | bool = "no"
    many: tuple[int, ...] = ()
    named: dict[str, int] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    sections: dict[str, Inner] = field(default_factory=dict)
    shape: Annotated[Chosen, OneOf(catalog="shapes:CATALOG", default="round")]
    shapes: dict[str, Annotated[Chosen, OneOf(catalog="shapes:CATALOG")]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Demanding:
    """A field without a default."""

    path: str
    weight: float = 1.0


@pytest.fixture(autouse=True)
def catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    module: Any = ModuleType("shapes")
    module.CATALOG = {"round": "shapes:Round", "square": ("shapes:Square", "shapes:Square")}
    module.Round, module.Square = Round, Square
    monkeypatch.setitem(sys.modules, "shapes", module)


def read(**data: Any) -> Everything:
    return decode.decode(Everything, data)


def problems(cls: type, data: Mapping[str, Any], **options: Any) -> list[str]:
    return list(decode_leniently(cls, data, **options)[1].values())


GOOD: list[tuple[str, Any, Any]] = [
    ("flag", True, True),
    ("whole", 3, 3),
    ("whole", "3", 3),
    ("whole", 3.0, 3),
    ("whole", "1e3", 1000),
    ("number", 2, 2.0),
    ("number", "1e-4", 1e-4),
    ("number", "1E-4", 1e-4),
    ("number", ".5", 0.5),
    ("number", float("inf"), float("inf")),
    ("text", "words", "words"),
    ("text", 7, "7"),
    ("maybe", None, None),
    ("maybe", "1e-4", 1e-4),
    ("mode", "steps", "steps"),
    ("mode", False, "no"),
    ("either", "one", "one"),
    ("either", ["one", "two"], ("one", "two")),
    ("mixed", True, True),
    ("mixed", "all", "all"),
    ("many", [1, "2"], (1, 2)),
    ("many", (), ()),
    ("named", {"a": "1"}, {"a": 1}),
    ("free", {"a": {"b": [1, None]}}, {"a": {"b": [1, None]}}),
    ("inner", {"count": 2, "deep": {"radius": "1e-3"}}, Inner(count=2, deep=Round(radius=1e-3))),
    ("inner", {}, Inner()),
    ("sections", {"one": {"count": 5}, "two": {}}, {"one": Inner(count=5), "two": Inner()}),
    ("shape", "round", Chosen("round", Round())),
    ("shape", {"name": "square", "side": 2}, Chosen("square", Square(side=2))),
    ("shape", {"radius": 2}, Chosen("round", Round(radius=2.0))),
    ("shapes", {"round": {"radius": 2}}, {"round": Chosen("round", Round(radius=2.0))}),
    ("shapes", {"mine": {"name": "square", "side": 1}}, {"mine": Chosen("square", Square(side=1))}),
    ("shapes", {"mine": "round"}, {"mine": Chosen("round", Round())}),
    ("shapes", {"round": {}, "gone": None}, {"round": Chosen("round", Round())}),
]


@pytest.mark.parametrize(("name", "given", "wanted"), GOOD)
def test_values_that_are_right(name: str, given: Any, wanted: Any) -> None:
    value = getattr(read(**{name: given}), name)
    assert value == wanted
    assert type(value) is type(wanted)


BAD: list[tuple[Any, str]] = [
    ({"flag": 1}, "flag: true or false is wanted, 1 was given."),
    ({"flag": "yes"}, "flag: true or false is wanted, 'yes' was given."),
    ({"flag": None}, "flag: true or false is wanted, None was given."),
    ({"whole": 1.5}, "whole: a whole number is wanted, 1.5 was given."),
    ({"whole": True}, "whole: a whole number is wanted, True was given."),
    ({"whole": "three"}, "whole: a whole number is wanted, 'three' was given."),
    ({"whole": float("inf")}, "whole: a whole number is wanted, inf was given."),
    ({"whole": float("nan")}, "whole: a whole number is wanted, nan was given."),
    ({"number": "1e"}, "number: a number is wanted, '1e' was given."),
    ({"number": True}, "number: a number is wanted, True was given."),
    ({"number": float("nan")}, "number: a number is wanted, nan was given."),
    ({"number": "nan"}, "number: a number is wanted, 'nan' was given."),
    ({"number": [1]}, "number: a number is wanted, [1] was given."),
    ({"text": 1.5}, "text: text is wanted, 1.5 was given."),
    ({"text": False}, "text: text is wanted, False was given."),
    ({"text": None}, "text: text is wanted, None was given."),
    ({"maybe": "none"}, "maybe: a number is wanted, 'none' was given."),
    ({"mode": "step"}, "mode: 'step' is none of its values; did you mean 'steps'?"),
    ({"mode": True}, "mode: True is none of its values; known are epoch, no, steps."),
    ({"mode": 3}, "mode: 3 is none of its values; known are epoch, no, steps."),
    ({"either": 1.5}, "either: text or a list is wanted, 1.5 was given."),
    ({"many": 3}, "many: a list is wanted, 3 was given."),
    ({"many": "3"}, "many: a list is wanted, '3' was given."),
    ({"many": [1, "x"]}, "many[1]: a whole number is wanted, 'x' was given."),
    ({"named": [1]}, "named: a mapping is wanted, [1] was given."),
    ({"named": {"a": "x"}}, "named.a: a whole number is wanted, 'x' was given."),
    ({"free": 3}, "free: a mapping is wanted, 3 was given."),
    ({"inner": 3}, "inner: a mapping is wanted, 3 was given."),
    ({"inner": None}, "inner: a mapping is wanted, None was given."),
    ({"inner": {"count": -1}}, "inner.count: 0 or more is wanted, -1 was given."),
    ({"sections": {"one": {"count": "x"}}}, "sections.one.count: a whole number is wanted, 'x' was given."),
    (
        {"sections": {"one": {"coun": 1}}},
        "sections.one.coun: no such key; did you mean 'sections.one.count'?",
    ),
    ({"inner": {"deep": {"radios": 1}}}, "inner.deep.radios: no such key; did you mean 'inner.deep.radius'?"),
    ({"inner": {"zzz": 1}}, "inner.zzz: no such key; known are count, deep."),
    ({"shape": 3}, "shape: a name or a mapping with one is wanted, 3 was given."),
    ({"shape": None}, "shape: a name or a mapping with one is wanted, None was given."),
    ({"shape": "squar"}, "shape.name: there is no 'squar'; did you mean 'square'?"),
    ({"shape": {"name": None}}, "shape.name: a name is required; known are round, square."),
    ({"shape": {"name": "zzz"}}, "shape.name: there is no 'zzz'; known are round, square."),
    ({"shape": "square"}, "shape.side: a value is required and none was given."),
    ({"shape": {"name": "square", "side": "x"}}, "shape.side: a whole number is wanted, 'x' was given."),
    (
        {"shape": {"name": "square", "side": 1, "corners": "shrp"}},
        "shape.corners: 'shrp' is none of its values; did you mean 'sharp'?",
    ),
    ({"shapes": {"rund": {}}}, "shapes.rund.name: there is no 'rund'; did you mean 'round'?"),
    ({"shapes": {"mine": {"name": "rond"}}}, "shapes.mine.name: there is no 'rond'; did you mean 'round'?"),
    ({"shapes": {"round": 3}}, "shapes.round: a name or a mapping with one is wanted, 3 was given."),
    (
        {"shapes": {"round": {"radus": 3}}},
        "shapes.round.radus: no such key; did you mean 'shapes.round.radius'?",
    ),
    ({"shapes": ["round"]}, "shapes: a mapping is wanted, ['round'] was given."),
    ({"flg": True}, "flg: no such key; did you mean 'flag'?"),
]


@pytest.mark.parametrize(("data", "text"), BAD, ids=[text.partition(";")[0][:50] for _, text in BAD])
def test_values_that_are_wrong(data: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        decode.decode(Everything, data)
    assert raised.value.problems == (text,)


def test_a_required_value() -> None:
    assert problems(Demanding, {}) == ["path: a value is required and none was given."]
    assert problems(Demanding, {"path": 1.5}) == ["path: text is wanted, 1.5 was given."], "said once"
    assert problems(Everything, {"shape": {"name": "square"}}) == [
        "shape.side: a value is required and none was given."
    ]


def test_all_problems_are_found_at_once_and_the_rest_keeps_its_values() -> None:
    data = {
        "flg": 1,
        "whole": "x",
        "number": "1e-4",
        "mode": "setps",
        "inner": {"count": "y", "deep": {"radius": "z"}},
        "shapes": {"a": {"name": "cube"}, "round": {"radius": 2}},
        "many": [1, None],
    }
    value, found = decode_leniently(Everything, data)
    assert list(found) == [
        "flg",
        "whole",
        "mode",
        "inner.count",
        "inner.deep.radius",
        "shapes.a.name",
        "many[1]",
    ]
    assert all(text.startswith(f"{path}: ") for path, text in found.items())
    assert value is not None
    assert value.number == 1e-4
    assert value.whole == 0
    assert value.inner == Inner()
    assert value.shapes == {"round": Chosen("round", Round(radius=2.0))}


def test_a_flat_name_at_the_wrong_place_is_told_its_home() -> None:
    homes = {"radius": "inner.deep.radius", "count": "inner.count"}
    text = "radius: no such key here; 'radius' lives at 'inner.deep.radius'."
    assert problems(Everything, {"radius": 1}, homes=homes) == [text]
    assert problems(Everything, {"inner": {"radius": 1}}, homes=homes) == [f"inner.{text}"]
    assert problems(Everything, {"inner": {"count": 1}}, homes=homes) == []
    # A chosen option without that field: the home is right, and the option has no such key.
    text = "shape.radius: no such key; known are corners, side."
    square = {"name": "square", "side": 1, "radius": 1}
    assert problems(Everything, {"shape": square}, homes={"radius": "shape.radius"}) == [text]


def test_every_argument_of_the_reference_is_told_its_home_wherever_it_is_mistaken() -> None:
    from dataclasses import fields

    at_the_top = {f.name for f in fields(RunConfig)}
    for name, home in HOMES.items():
        if name not in at_the_top:
            _, found = decode_leniently(RunConfig, {name: 1}, homes=HOMES)
            assert found[name] == f"{name}: no such key here; {name!r} lives at {home!r}."


def test_defaults_are_not_shared_and_values_are_frozen() -> None:
    first, second = read(), read()
    assert first.named is not second.named
    with pytest.raises(AttributeError):
        first.flag = True  # type: ignore[misc]


def test_a_chosen_section_shows_its_options_and_survives_copying() -> None:
    chosen = read(shape={"name": "square", "side": 3}).shape
    assert chosen.side == 3
    assert copy.deepcopy(chosen) == chosen
    assert pickle.loads(pickle.dumps(Chosen("round", Round()))) == Chosen("round", Round())
    with pytest.raises(AttributeError):
        _ = chosen.radius


@pytest.mark.parametrize(("name", "given", "wanted"), GOOD)
def test_encoding_is_the_way_back(name: str, given: Any, wanted: Any) -> None:
    value = read(**{name: given})
    plain = encode(value)
    assert decode.decode(Everything, plain) == value
    assert _is_plain(plain)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


@pytest.mark.parametrize("recipe", compose.recipes())
def test_every_recipe_survives_encoding(recipe: str) -> None:
    composed = compose.compose([f"+recipe={recipe}"])
    assert composed is not None
    config = judged(composed.data, composed.given)
    plain = encode(config)
    assert _is_plain(plain)
    assert decode.decode(RunConfig, plain) == config
    assert encode(decode.decode(RunConfig, plain)) == plain


def test_judging_some_fields_alone() -> None:
    assert decode_fields(Square, {"side": "2"}, "here") == {"side": 2}
    with pytest.raises(ConfigError) as raised:
        decode_fields(Square, {"sid": 2, "corners": "x"}, "here")
    assert raised.value.problems == (
        "here.sid: no such key; did you mean 'here.side'?",
        "here.corners: 'x' is none of its values; known are no, sharp.",
    )


def test_leaves() -> None:
    assert list(leaves({"a": {"b": 1, "c": {}}, "d": [1]})) == [("a.b", 1), ("a.c", {}), ("d", [1])]
