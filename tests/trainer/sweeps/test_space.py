"""The words of a sweep: what is shared, what is swept, and the combinations."""

from __future__ import annotations

import pytest

from conf.errors import ConfigError
from trainer.sweeps.space import Dimension, Space, read


def grid(*words: str) -> list[list[str]]:
    space = read(words)
    return [space.words(values) for values in space.grid()]


def one(word: str) -> Dimension:
    (dimension,) = read([word]).dimensions
    return dimension


def test_jobs_are_the_product_of_all_values() -> None:
    assert grid("a.b=1,2", "+recipe=x", "c=choice(u,v)", "d=range(3)") == [
        [f"a.b={a}", "+recipe=x", f"c={c}", f"d={d}"] for a in (1, 2) for c in "uv" for d in range(3)
    ]
    assert grid("a=[1,2]", "b='x,y'", "~c.d", "e={f: 1}", "g=1e-4,3e-4") == [
        ["a=[1,2]", "b='x,y'", "~c.d", "e={f: 1}", f"g={g}"] for g in (0.0001, 0.0003)
    ]
    assert grid("+a=1,2", "b={c: 1},{c: 2}") == [[f"+a={a}", f"b={{c:{c}}}"] for a in (1, 2) for c in (1, 2)]
    assert grid() == [[]]


def test_what_is_about_the_sweep_itself_is_no_word_of_a_job() -> None:
    space = read(["output_dir=x", "a=1,2", "sweep.n_trials=3", "resume=auto", "+recipe=r"])
    assert space.own == ("output_dir=x", "sweep.n_trials=3", "resume=auto")
    assert space.words({"a": "2"}) == ["a=2", "+recipe=r"]


@pytest.mark.parametrize(
    ("word", "bounds"),
    [
        ("a=interval(1e-5,1e-3)", (1e-5, 1e-3, None, False, False)),
        ("a=tag(log,interval(1e-5,1e-3))", (1e-5, 1e-3, None, True, False)),
        ("a=interval(1,8)", (1.0, 8.0, None, False, False)),
        ("a=int(interval(1,8))", (1, 8, None, False, True)),
        ("a=tag(log,int(interval(1,8)))", (1, 8, None, True, True)),
        ("a=int(tag(log,interval(1,8)))", (1, 8, None, True, True)),
        ("a=range(1,10,4)", (1, 9, 4, False, True)),
        ("a=range(9,0,-4)", (1, 9, 4, False, True)),
    ],
)
def test_numbers_lie_between_bounds(word: str, bounds: tuple[object, ...]) -> None:
    found = one(word)
    assert found.is_number
    assert (found.low, found.high, found.step, found.log, found.is_whole) == bounds


def test_a_range_of_fractions_and_one_of_a_single_number_are_choices() -> None:
    assert one("a=range(0.0,0.3,0.1)").is_number is False
    found = one("a=range(1,2)")
    assert (found.choices, found.is_number) == (("1",), False)


def test_corners_are_each_extreme_beside_the_first_of_the_rest_and_all_the_last() -> None:
    space = read(["a=interval(0,1)", "b=x,y,z", "c=range(1,10,4)"])
    assert [tuple(corner.values()) for corner in space.corners()] == [
        (0.0, "x", 1),
        (1.0, "x", 1),
        (0.0, "y", 1),
        (0.0, "z", 1),
        (0.0, "x", 9),
        (1.0, "z", 9),
    ]
    assert list(Space(parts=("a=1",)).corners()) == [{}, {}]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sweep.seed=1,2", "sweep.seed: it is about the sweep as a whole and has one value."),
        ("output_dir=a,b", "output_dir: it is about the sweep as a whole and has one value."),
        ("hub.hub_token=a,b", "hub.hub_token: a secret is the same for all jobs; give one value."),
        ("a=shuffle(1,2)", "a: 'a=shuffle(1,2)' would give another order at each start; leave shuffle out."),
        ("a=tag(ln,interval(1,2))", "a: there is no tag 'ln' here; the one that has a meaning is log."),
        (
            "a=tag(log,choice(1,2))",
            "a: 'a=tag(log,choice(1,2))': a logarithmic scale is for an interval; leave the tag out.",
        ),
        ("a=interval(2,1)", "a: 'a=interval(2,1)' is empty; give the smaller number first."),
        ("a=interval(1,1)", "a: 'a=interval(1,1)' is empty; give the smaller number first."),
        (
            "a=tag(log,interval(0,1))",
            "a: 'a=tag(log,interval(0,1))': a logarithmic scale begins above 0.",
        ),
        ("a=range(3,1)", "a: 'a=range(3,1)' has no values."),
    ],
)
def test_what_cannot_be_swept(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read([word])
    assert raised.value.problems == (said,)


def test_a_grid_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^a: 'a=interval\(0,1\)' has no end; give the values, as in a=1"):
        read(["a=interval(0,1)"]).grid()
