"""Command lines, mappings and files to dataclasses; the same words through the reference's parser."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import transformers
import yaml

from conf.errors import ConfigError
from trainer.argument_parser import HfArgumentParser
from trainer.training_arguments import Seq2SeqTrainingArguments, TrainingArguments


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Required:
    count: int
    share: float
    name: str
    flag: bool
    items: list[int]


@dataclass
class Usual:
    count: int = 3
    share: float = 0.5
    long_name: str = field(default="toto", metadata={"help": "a name"})
    off: bool = False
    on_now: bool = True
    maybe: bool | None = None
    maybe_on: bool | None = True
    number: int | None = None
    old: Optional[float] = None  # noqa: UP045, the older spelling is taken too
    color: Color = Color.RED
    mode: Literal["fast", "slow", 3] = "fast"
    items: list[str] = field(default_factory=lambda: ["a", "b"])
    numbers: list[int] | None = None
    words_or_one: list[str] | str = ""
    mapping: dict[str, Any] | str | None = None
    short: str = field(default="", metadata={"aliases": ["-s", "--brief"]})


@dataclass
class Grouped:
    _argument_group_name = "places"
    source: str = "here"


@dataclass
class Hidden:
    shown: int = 1
    derived: int = field(init=False, default=2)


# Fields whose default the reference replaces where a union may be a list, or text beside a truth value.
REFERENCE_LOSES = ("words_or_one", "debug", "include_num_input_tokens_seen")

CASES: list[tuple[type, str]] = [
    (Required, "--count 1 --share 2 --name x --flag True --items 1 2 3"),
    (Required, "--count 1 --share 2 --name x --items 1"),
    (Usual, ""),
    (Usual, "--count 4 --share 1e-3 --long_name x --off --no_on_now"),
    (Usual, "--long-name y --no-on-now --off yes --maybe false --maybe_on"),
    (Usual, "--on_now 0 --no_maybe_on --number 5 --old 0.25 --color blue --mode slow"),
    (Usual, "--mode 3 --items x --numbers 1 2 --words_or_one a b --mapping {} -s q"),
    (Usual, "--count 4 --count 5 --brief=z"),
    (Usual, "--items x y --maybe T --off n --on-now t"),
    (Grouped, "--source there"),
    (Hidden, "--shown 3"),
    (Seq2SeqTrainingArguments, ""),
    (
        Seq2SeqTrainingArguments,
        "--output_dir out --do_train --learning_rate 1e-3 --eval_strategy steps --warmup-steps 0.1 --bf16 "
        "--no_dataloader_pin_memory --label_names a b --tf32 false --max_grad_norm 0 --save_total_limit 2 "
        "--debug underflow_overflow --include_for_metrics inputs loss --fsdp_config {} --report_to wandb "
        "--predict_with_generate --generation_num_beams 3 --optim sgd --optim_args momentum=0.9",
    ),
]


@pytest.mark.parametrize(("cls", "line"), CASES, ids=lambda case: getattr(case, "__name__", case)[:40])
def test_a_line_is_read_as_the_reference_reads_it(cls: Any, line: str) -> None:
    words = line.split()
    (ours,) = HfArgumentParser(cls).parse_args_into_dataclasses(words, look_for_args_file=False)
    (theirs,) = transformers.HfArgumentParser(cls).parse_args_into_dataclasses(
        words, look_for_args_file=False
    )
    expected, kept = asdict(theirs), asdict(cls()) if cls is not Required else {}
    for name in REFERENCE_LOSES:
        if name in expected and expected[name] in (None, False):
            expected[name] = kept[name]
    assert asdict(ours) == expected


@pytest.mark.parametrize(
    ("cls", "line"),
    [
        (Required, "--count 1"),
        (Usual, "--count x"),
        (Usual, "--color green"),
        (Usual, "--mode slower"),
        (Usual, "--off maybe"),
        (Usual, "--items"),
        (Usual, "--number none"),
    ],
)
def test_a_wrong_line_ends_both_parsers(cls: Any, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    for parser in (HfArgumentParser(cls), transformers.HfArgumentParser(cls)):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args_into_dataclasses(line.split(), look_for_args_file=False)
        assert ended.value.code == 2
        assert "error: " in capsys.readouterr().err


def test_only_what_was_typed_is_given() -> None:
    parser = HfArgumentParser(TrainingArguments)
    (args,) = parser.parse_args_into_dataclasses(["--seed", "42", "--bf16"], look_for_args_file=False)
    assert args.given == {"seed", "bf16"}
    parser.set_defaults(learning_rate=1e-3)
    (args,) = parser.parse_args_into_dataclasses([], look_for_args_file=False)
    assert (args.learning_rate, args.given) == (1e-3, {"learning_rate"})


def test_a_union_of_text_and_truth_takes_both() -> None:
    parser = HfArgumentParser(TrainingArguments)
    for word, value in (("non_padding", "non_padding"), ("true", True), ("no", False)):
        line = ["--include_num_input_tokens_seen", word]
        (args,) = parser.parse_args_into_dataclasses(line, look_for_args_file=False)
        assert args.include_num_input_tokens_seen == value


def test_several_dataclasses_more_options_and_what_remains() -> None:
    parser = HfArgumentParser([Usual, Grouped])
    parser.add_argument("--extra", type=int, default=1)
    line = ["--count", "9", "--source", "there", "--extra", "7", "--unknown", "x"]
    usual, grouped, extra, remaining = parser.parse_args_into_dataclasses(
        line, return_remaining_strings=True, look_for_args_file=False
    )
    assert (usual.count, grouped.source, extra, remaining) == (
        9,
        "there",
        Namespace(extra=7),
        ["--unknown", "x"],
    )
    with pytest.raises(ConfigError) as error:
        parser.parse_args_into_dataclasses(["--counts", "9"], look_for_args_file=False)
    assert str(error.value) == "--counts: there is no such option; did you mean '--count'?"
    with pytest.raises(ConfigError, match=r"^--cuont: there is no such option; did you mean '--count'\?$"):
        parser.parse_args_into_dataclasses(["--cuont=9"], look_for_args_file=False)


def test_groups_and_meanings_are_in_the_help() -> None:
    text = HfArgumentParser([Grouped, Usual], prog="x").format_help()
    assert "places:\n  --source SOURCE" in text
    assert "a name (default: toto)" in text
    assert "set on_now to false" in text
    assert (
        "the peak of the learning rate (default: 5e-05)" in HfArgumentParser(TrainingArguments).format_help()
    )


def test_words_come_from_files_before_those_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.args").write_text("--count 5 --off")
    (tmp_path / "one").write_text("--count 6 --share 0.1")
    (tmp_path / "two").write_text("--count 7")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py"), "--number", "8"])
    for parser in (HfArgumentParser(Usual), transformers.HfArgumentParser(Usual)):
        parse = parser.parse_args_into_dataclasses
        (usual,) = parse()
        assert (usual.count, usual.off, usual.number) == (5, True, 8)
        (usual,) = parse([], look_for_args_file=False)
        assert (usual.count, usual.off, usual.number) == (3, False, None)
        (usual,) = parse([], args_filename=one)
        assert (usual.count, usual.share, usual.off) == (6, 0.1, False)
        (usual,) = parse(["--args_file", one, "--args_file", two], args_file_flag="--args_file")
        assert (usual.count, usual.share, usual.off) == (7, 0.1, True)
        (usual,) = parse(["--args_file", one, "--count", "1"], args_file_flag="--args_file")
        assert (usual.count, usual.share) == (1, 0.1)


def test_mappings_and_files(tmp_path: Path) -> None:
    data = {"count": 9, "source": "there", "maybe": True}
    (tmp_path / "a.json").write_text(json.dumps(data))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    parser, theirs = HfArgumentParser([Usual, Grouped]), transformers.HfArgumentParser([Usual, Grouped])
    expected = theirs.parse_dict(data)
    assert parser.parse_dict(data) == expected
    assert parser.parse_json_file(tmp_path / "a.json") == expected
    assert parser.parse_yaml_file(str(tmp_path / "a.yaml")) == expected
    assert HfArgumentParser(Usual).parse_yaml_file(tmp_path / "a.yaml", allow_extra_keys=True) == expected[:1]
    with pytest.raises(ConfigError) as error:
        HfArgumentParser(Usual).parse_json_file(tmp_path / "a.json")
    assert str(error.value).startswith("source: there is no such key; known are color, count, ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "it cannot be read: No such file or directory."),
        ("[1", "it cannot be parsed: "),
        ("[1]", "a mapping of arguments is wanted, list was found."),
    ],
)
def test_a_file_that_is_none_is_said(text: str | None, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    for parse in (HfArgumentParser(Usual).parse_json_file, HfArgumentParser(Usual).parse_yaml_file):
        with pytest.raises(ConfigError) as error:
            parse(file)
        assert str(error.value).startswith(f"{file}: {sentence}")


def test_a_union_of_two_types_is_a_mistake_of_the_program() -> None:
    @dataclass
    class Wrong:
        value: int | float = 1

    with pytest.raises(ValueError, match="value: a union may have one type beside None and str"):
        HfArgumentParser(Wrong)
    with pytest.raises(ValueError, match="value"):
        transformers.HfArgumentParser(Wrong)
