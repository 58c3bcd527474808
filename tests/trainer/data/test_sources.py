"""Raw rows of every kind of file, with their places; bad ones named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from conf.errors import ConfigError, DataError
from trainer.data.sources import Source, SourceOptions, find_files, read_rows


def rows_of(path: Path, **options) -> list[tuple]:
    found = read_rows(SourceOptions(path=str(path), format="text", **options))
    return [(row.values, Path(row.file).name, row.line) for row in found]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FILES = {
    "a.jsonl": (
        '{"t": "x"}\n\n{"t": "y\\n"}\r\n{"t": "ü"}',
        [1, 3, 4],
        [{"t": "x"}, {"t": "y\n"}, {"t": "ü"}],
    ),
    "b.jsonl": (b'\xef\xbb\xbf{"t": 1}\n', [1], [{"t": 1}]),
    "a.json": ('[\n {"t": 1},\n\n {"t":\n 2}, {"t": 3}\n]\n', [2, 4, 5], [{"t": 1}, {"t": 2}, {"t": 3}]),
    "a.csv": (
        'a,b\r\n1,"x\r\n\r\ny"\r\n2,"q""r"\r\n\r\n3,\r\n',
        [2, 5, 7],
        [{"a": "1", "b": "x\r\n\r\ny"}, {"a": "2", "b": 'q"r'}, {"a": "3", "b": ""}],
    ),
    "a.txt": (
        "one\ntwo\n\n \nthree\n\nfour",
        [1, 5, 7],
        [{"text": "one\ntwo"}, {"text": "three"}, {"text": "four"}],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_and_their_lines(tmp_path: Path, name: str):
    content, lines, values = FILES[name]
    path = write(tmp_path / name, content)
    assert rows_of(path) == [(value, name, line) for value, line in zip(values, lines, strict=True)]


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", [("one", 1), ("two", 2), ("three", 5)]),
        ("paragraph", [("one\ntwo", 1), ("three", 5)]),
        ("document", [("one\ntwo\n\n\nthree", 1)]),
    ],
)
def test_text_by_line_paragraph_and_document(tmp_path: Path, sample_by: str, expected: list):
    path = write(tmp_path / "a.txt", "one\ntwo\n\n\nthree\n")
    assert [(values["text"], line) for values, _, line in rows_of(path, sample_by=sample_by)] == expected


def make_parquet(path: Path, rows: int, group: int) -> Path:
    table = pyarrow.table({"t": list(range(rows)), "m": [[{"role": "user"}]] * rows})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_parquet_rows(tmp_path: Path):
    path = make_parquet(tmp_path / "a.parquet", 5, 2)
    assert rows_of(path) == [({"t": n, "m": [{"role": "user"}]}, "a.parquet", n + 1) for n in range(5)]


@pytest.mark.parametrize("name", [*FILES, "many.parquet", "lines.txt", "whole.txt"])
def test_reading_goes_on_from_every_row(tmp_path: Path, name: str):
    sample_by = {"lines.txt": "line", "whole.txt": "document"}.get(name)
    if name == "many.parquet":
        path = make_parquet(tmp_path / name, 600, 100)
    else:
        path = write(tmp_path / name, FILES.get(name, FILES["a.txt"])[0])
    write(tmp_path / f"z{path.suffix}", path.read_bytes())
    source = Source(SourceOptions(path=str(tmp_path / f"*{path.suffix}"), format="text", sample_by=sample_by))
    rows = list(source.rows())
    for number in range(0, len(rows), 53 if len(rows) > 100 else 1):
        assert list(source.rows(rows[number].next)) == rows[number + 1 :]


BAD = {
    "a.jsonl": ('{"t": 1}\n{"t": \n', "a.jsonl:2: not valid JSON at character 6."),
    "b.jsonl": ('{"t": 1}\n\n[1]\n', "b.jsonl:3: a row must be an object, not a list."),
    "c.jsonl": (b'{"t": 1}\n{"t": "\xff"}\n', "c.jsonl:2: byte 8 of the line is not UTF-8."),
    "a.json": ('[\n{"t": 1},\n{"t": }]', "a.json:3: not valid JSON at character 7."),
    "b.json": ('{"t": 1}\n{"t": 2}', "b.json:1: a .json file must hold one list of objects"),
    "c.json": ('[{"t": 1}\n {"t": 2}]', "c.json:2: a comma or the list's end is missing."),
    "d.json": ('[{"t": 1},\n "x"]', "d.json:2: a row must be an object, not a string."),
    "e.json": ('[{"t": 1},\n', "e.json:2: not valid JSON"),
    "a.csv": ("a,b\n1,2\n1,2,3\n", "a.csv:3: 3 values under 2 column names."),
    "b.csv": ('a,b\n1,2\n1,"x\ny\n', "b.csv:3: not valid CSV: unexpected end of data."),
    "c.csv": ("a,a\n", "c.csv:1: a .csv file begins with a line of column names, each different."),
    "a.parquet": (b"PAR1 is not enough", "a.parquet:1: not valid parquet: "),
    "a.txt": (b"fine\n\n\xff\n", "a.txt:3: byte 1 of the line is not UTF-8."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_by_file_and_line(tmp_path: Path, name: str):
    content, message = BAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert str(tmp_path / message) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_patterns_are_sorted_and_pass_over_other_files(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", ".hidden.jsonl", "README.md", ".git/d.jsonl"):
        write(tmp_path / "data" / name, json.dumps({"from": name}))
    folder = [values["from"] for values, _, _ in rows_of(tmp_path / "data")]
    assert folder == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert [values["from"] for values, _, _ in rows_of(tmp_path / "data" / "?.jsonl")] == [
        "a.jsonl",
        "b.jsonl",
    ]


def test_the_current_folder_comes_before_the_roots(tmp_path: Path, monkeypatch):
    here, root = tmp_path / "here", tmp_path / "root"
    write(root / "data/a.jsonl", "{}")
    here.mkdir()
    monkeypatch.chdir(here)
    assert find_files("data/a.jsonl", [root]) == [root / "data/a.jsonl"]
    write(here / "data/a.jsonl", "{}")
    assert find_files("data/a.jsonl", [root]) == [Path("data/a.jsonl")]


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data/a\.jsonl: there is no such file; looked in .*root"):
        find_files("data/a.jsonl", [tmp_path / "root"])
    with pytest.raises(DataError, match="there is no such file"):
        find_files("data/*.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="this folder holds no file ending in"):
        find_files("empty")
    write(tmp_path / "a.xml", "x")
    with pytest.raises(DataError, match="its name ends in none of"):
        Source(SourceOptions(path="a.xml", format="text"))
    assert find_files("owner/name") == []


def test_options_of_another_kind_of_data_are_errors(tmp_path: Path):
    path = str(write(tmp_path / "a.jsonl", "{}"))
    with pytest.raises(ConfigError) as caught:
        Source(SourceOptions(path=path, format="text", split="train", config="x", sample_by="line"))
    assert [problem.split(": ")[1].split("=")[0] for problem in caught.value.problems] == [
        "split",
        "config",
        "sample_by",
    ]
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="weight"):
            SourceOptions(path=path, format="text", weight=weight)


def test_columns_are_renamed(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", '{"body": "x", "id": 1, "text": "old"}\n{"id": 2}\n')
    options = SourceOptions(path=str(path), format="text", columns={"text": "body"})
    rows = read_rows(options)
    assert next(rows).values == {"id": 1, "text": "x"}
    with pytest.raises(DataError, match=r"a\.jsonl:2: there is no column 'body'; there are id\."):
        next(rows)


def test_fingerprint_follows_content_and_the_way_it_is_read(tmp_path: Path):
    path = write(tmp_path / "a.txt", "x")

    def fingerprint(**options):
        return Source(SourceOptions(path=str(path), format="text", **options)).fingerprint()

    prints = [fingerprint(), fingerprint(sample_by="line"), fingerprint(columns={"a": "text"})]
    write(path, "y")
    prints.append(fingerprint())
    assert len({json.dumps(print) for print in prints}) == 4
    assert fingerprint() == prints[3]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> str:
    """A data set in the form of a hub's, reached by its name through ``datasets``."""
    import datasets

    write(tmp_path / "set" / "train.jsonl", "".join(f'{{"t": {n}}}\n' for n in range(10)))
    load = datasets.load_dataset
    where = str(tmp_path / "set")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, *args, **named: load(where, *args, cache_dir=str(tmp_path / "hub"), **named),
    )
    return "owner/set"


def test_hub_data_sets(hub: str):
    source = Source(SourceOptions(path=hub, format="text", split="train"))
    rows = list(source.rows())
    assert [(row.values, row.file, row.line) for row in rows] == [
        ({"t": n}, "owner/set[train]", n + 1) for n in range(10)
    ]
    assert list(source.rows(rows[3].next)) == rows[4:]
    assert source.fingerprint() == source.fingerprint()


def test_a_name_that_is_nothing_is_one_sentence(monkeypatch):
    import datasets

    def unreachable(*args, **named):
        raise ConnectionError("Couldn't reach 'data/chta' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        list(Source(SourceOptions(path="data/chta", format="text")).rows())
    assert str(caught.value) == (
        "data/chta: no such file or folder here, and not to be had as a hub data set: "
        "Couldn't reach 'data/chta' on the Hub"
    )
