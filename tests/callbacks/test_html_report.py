"""The report and the leaderboard: what they show, that nothing breaks them, and that nothing gets out."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import ReportCallback
from callbacks.html_report import page, report
from callbacks.html_report.charts import MAX_LINES, MAX_POINTS, Series, chart, charts, thinned
from callbacks.html_report.history import MAX_ROWS, evaluation_table, sections
from callbacks.html_report.page import leaderboard_page, report_page
from callbacks.html_report.report import Progress, report_of
from callbacks.html_report.scales import Scale, below_each_other, compact, value_scale
from trainer.state import TrainerControl, TrainerState
from trainer.training_arguments import Seq2SeqTrainingArguments

VOID = {"meta", "path", "link", "br"}
EVIL = "<script>alert('1')</script>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, its text, and the contents of its scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif data.strip() and "style" not in self.open:
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def history(steps: int, **more: float) -> list[dict[str, Any]]:
    """A line a step, an evaluation each fifth."""
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 2 + 8 * math.exp(-step / 20)
        lines.append({"step": step, "epoch": step / 10, "loss": loss, "grad_norm": 1 + step % 3, **more})
        if step % 5 == 0:
            results = {"eval_loss": loss + 0.5, "eval_accuracy": step / 100, "eval_runtime": 0.25}
            lines.append({"step": step, "epoch": step / 10, **results})
    return lines


def ended(
    folder: Path, lines: list[dict[str, Any]], *, steps: int, of: int, **more: Any
) -> tuple[Any, TrainerState]:
    """Arguments and state at the end of a training."""
    args = Seq2SeqTrainingArguments(output_dir=str(folder), **more)
    args.metric_for_best_model = "loss"
    return args, TrainerState(global_step=steps, max_steps=of, epoch=steps / 10, log_history=lines)


def written(
    folder: Path, lines: list[dict[str, Any]], *, steps: int = 20, of: int = 20, sets: Any = None, **more: Any
) -> Page:
    """The report of such a training, taken apart."""
    args, state = ended(folder, lines, steps=steps, of=of, **more)
    callback, told = ReportCallback(), {"eval_dataloader": sets}
    callback.on_train_begin(args, state, TrainerControl(), **told)
    callback.on_train_end(args, state, TrainerControl(), **told)
    callback.close()
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return Page((folder / "report.html").read_text(encoding="utf-8"))


# -- the callback ----------------------------------------------------------------------------------


def test_a_run_ends_with_its_report(train: Any, tiny: Sequence[str]) -> None:
    words = (
        "+callbacks.report_of_it.name=report",
        "evaluation.eval_strategy=steps",
        "evaluation.eval_steps=1",
    )
    done = train(*tiny, *words, "logging.logging_steps=1", "output_dir=run")
    assert done.status == 0, done.err
    assert "was not written" not in done.err
    shown = Page((done.folder / "report.html").read_text(encoding="utf-8"))
    assert {"run", "Finished", "Training", "Loss", "Learning rate", "Gradient norm"} <= set(shown.texts)
    (first, second) = (line["loss"] for line in done.metrics if "loss" in line)
    (losses,) = (figure for figure in shown.all("svg") if figure["aria-label"].startswith("loss:"))
    assert f"loss: from {first:.4g} at step 1 to {second:.4g} at 2" in losses["aria-label"]
    assert "eval_loss: from" in losses["aria-label"]
    assert "adamw_torch_fused" in (everything := "\n".join(shown.texts))
    assert (done.folder / "config.yaml").read_text().split() == _between(shown, "config.yaml", "Versions")
    assert f"{done.run.state.num_input_tokens_seen:.4g}" in everything
    assert done.run.callbacks.given["plan"].lines()[0][1] in everything


def _between(shown: Page, first: str, last: str) -> list[str]:
    begin = shown.texts.index(first) + 1
    return " ".join(shown.texts[begin : shown.texts.index(last, begin)]).split()


@pytest.mark.parametrize(
    ("steps", "summary", "status", "tone"),
    [
        (20, True, "Finished", "good"),
        (10, True, "Ended early, at step 10 of 20", "good"),
        (10, False, "Stopped at step 10 of 20", "wary"),
    ],
)
def test_it_says_how_the_training_ended(
    steps: int, summary: bool, status: str, tone: str, tmp_path: Path
) -> None:
    lines = history(steps) + ([{"step": steps, "train_runtime": 1.0, "train_loss": 2.0}] if summary else [])
    shown = written(tmp_path, lines, steps=steps)
    assert status in shown.texts
    assert {"class": f"state {tone}"} in shown.all("span")
    assert "train_loss" not in shown.texts, "a sum is no curve"


def test_a_training_that_an_error_ends_has_a_report_too(tmp_path: Path) -> None:
    callback = ReportCallback()
    args, state = ended(tmp_path, history(7), steps=7, of=20)
    callback.on_train_begin(args, state, TrainerControl())
    callback.close()
    assert "Broken off after step 7 of 20" in Page((tmp_path / "report.html").read_text()).texts
    (tmp_path / "report.html").unlink()
    callback.close()
    ReportCallback().close()
    state.log_history = []
    callback.on_train_begin(args, state, TrainerControl())
    callback.close()
    assert list(tmp_path.iterdir()) == [], "once, and not of a training that had not begun"


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    args, state = ended(tmp_path, history(5), steps=5, of=5)
    state.is_world_process_zero = False
    ReportCallback().on_train_end(args, state, TrainerControl())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_a_warning_and_the_last_report_stays(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    args, state = ended(tmp_path / "nowhere", history(5), steps=5, of=5)
    ReportCallback().on_train_end(args, state, TrainerControl())
    assert "report.html was not written: FileNotFoundError" in capsys.readouterr().err
    written(tmp_path, history(5), steps=5, of=5)
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(report, "report_page", lambda _: (_ for _ in ()).throw(KeyError("curve")))
    args.output_dir = str(tmp_path)
    ReportCallback().on_train_end(args, state, TrainerControl())
    assert "report.html was not written: KeyError: 'curve'" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"report.html": before}


def test_a_resumed_run_says_what_its_time_is_of(tmp_path: Path) -> None:
    args, state = ended(tmp_path, history(20), steps=20, of=20)
    state.num_input_tokens_seen = 9000
    progress = Progress(first_step=15, seconds=200.0, tokens=1000)
    figures = {f.label: f for f in report_of(args, state, {}, progress, status="", tone="good").figures}
    assert (figures["Duration"].value, figures["Duration"].detail) == ("3 min 20 s", "since step 15")
    assert (figures["Tokens a second"].value, figures["Tokens"].value) == ("5", "9000")
    assert figures["Tokens a second"].detail == "0.025 steps a second"


def test_key_figures(tmp_path: Path) -> None:
    lines = history(20)
    lines[3]["loss"], lines[8]["loss"] = math.nan, 0.5
    args, state = ended(tmp_path, lines, steps=20, of=40)
    state.best_metric, state.best_global_step = 1.25, 15
    plan = SimpleNamespace(parameters=2_500_000, trainable_parameters=10_000, lines=list)
    progress = Progress(first_step=0, seconds=10.0, tokens=0)
    shown = report_of(args, state, {"plan": plan}, progress, status="", tone="good").figures
    values = {figure.label: (figure.value, figure.detail) for figure in shown}
    assert values["Steps"] == ("20", "of 40")
    assert values["Last loss"] == (f"{2 + 8 * math.exp(-1):.4g}", f"lowest 0.5 at step {lines[8]['step']}")
    assert values["Best eval_loss"] == ("1.25", "at step 15")
    assert values["Parameters"] == ("2.5M", "10k trained")
    assert values["Steps a second"] == ("2", "")
    assert "Tokens" not in values


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.4, "9.4 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (9e4, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert report._duration(seconds) == text


@pytest.mark.parametrize(
    ("output_dir", "run_name", "names"),
    [
        ("runs/sft_llama/20261124-101500", None, ("sft_llama", "20261124-101500")),
        ("runs/sft_llama/20261124-101500-1", None, ("sft_llama", "20261124-101500-1")),
        ("runs/austen", None, ("austen", "runs/austen")),
        ("runs/austen", "third try", ("third try", "runs/austen")),
        ("run", None, ("run", "")),
    ],
)
def test_it_is_named_after_the_run(output_dir: str, run_name: str | None, names: tuple[str, str]) -> None:
    assert report._names(SimpleNamespace(output_dir=output_dir, run_name=run_name)) == names


# -- nothing gets in, nothing gets out ---------------------------------------------------------------


def pages(folder: Path) -> list[str]:
    """A report and a leaderboard full of names that would like to be HTML."""
    lines = history(20, **{EVIL: 1.0})
    lines += [{"step": 20, f"eval_{EVIL}_loss": 1.0, f"eval_{EVIL}_{EVIL}": 2.0, "eval_note": EVIL}]
    args, state = ended(folder, lines, steps=20, of=20, run_name=EVIL, hub_token="hf_secretsecret")
    given = {"eval_dataloader": {EVIL: [], "other": []}}
    progress = Progress(first_step=0, seconds=3.0, tokens=1000)
    job = {
        "rank": 1,
        "job": 0,
        "status": f"failed {EVIL}",
        "values": {EVIL: 1.0},
        "differences": {EVIL: EVIL},
    }
    return [
        report_page(report_of(args, state, given, progress, status=EVIL, tone="good")),
        leaderboard_page(EVIL, [{**job, "folder": EVIL}], metric=EVIL, columns=[EVIL], notes=[(EVIL, EVIL)]),
    ]


def test_names_are_text_and_the_only_script_is_ours(tmp_path: Path) -> None:
    for text in pages(tmp_path):
        shown = Page(text)
        assert EVIL in "".join(shown.texts)
        (script,) = shown.scripts
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        (policy,) = (m["content"] for m in shown.all("meta") if m.get("http-equiv"))
        assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        assert not [name for _, names in shown.elements for name in names if name.startswith("on")]


def test_nothing_outside_is_named(tmp_path: Path) -> None:
    for text in pages(tmp_path):
        assert not re.search(r"https?://|@import|url\(|<link|<img|<iframe", text)
        addresses = [
            value
            for _, names in Page(text).elements
            for name, value in names.items()
            if name in ("src", "href")
        ]
        assert all(re.fullmatch(r"\./[\w%./~-]+", address) for address in addresses)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    (text, _) = pages(tmp_path)
    assert "hf_secretsecret" not in text
    assert "&lt;HUB_TOKEN&gt;" in text


def test_equal_runs_have_equal_pages(tmp_path: Path) -> None:
    assert pages(tmp_path) == pages(tmp_path)


# -- charts ------------------------------------------------------------------------------------------


def places(path: str) -> list[list[tuple[float, float]]]:
    """The runs of points of SVG path data."""
    return [
        [(float(x), float(y)) for x, y in (place.split() for place in run.split("L"))]
        for run in path.split("M")[1:]
    ]


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_their_values_are(log: bool) -> None:
    points = [(10.0 * n, 1000.0 / (n * n)) for n in range(1, 60)]
    drawn = chart("Loss", [Series(name="loss", points=points)], may_be_log=log)
    assert drawn.log is log
    (run,) = places(drawn.lines[0].path)
    level = math.log if log else float
    bottom, top = level(points[-1][1]), level(points[0][1])
    (_, y_top), (_, y_bottom) = run[0], run[-1]
    assert 0 < y_top < y_bottom < 1000 + 1e-9
    for (step, value), (x, y) in zip(points, run, strict=True):
        assert x == pytest.approx(1000 * (step - 10) / 580, abs=0.06)
        share = (level(value) - bottom) / (top - bottom)
        assert y == pytest.approx(y_bottom + (y_top - y_bottom) * share, abs=0.11)
    for tick in drawn.up:  # a label says where it stands
        share = (level(_read(tick.label)) - bottom) / (top - bottom)
        assert 10 * tick.at == pytest.approx(y_bottom + (y_top - y_bottom) * share, abs=0.3)


def _read(label: str) -> float:
    """The number that a label stands for."""
    number, unit = re.fullmatch(r"(−?[\d.]+)(e-?\d+|[kMGT]?)", label).groups()  # type: ignore[union-attr]
    unit = {"k": "e3", "M": "e6", "G": "e9", "T": "e12"}.get(unit, unit)
    return float(number.replace("−", "-") + unit)


def test_ticks_are_round_evenly_spaced_and_told_apart() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        low = draw.choice([-1, 0, 1]) * 10 ** draw.uniform(-12, 14)
        span = 10 ** draw.uniform(-3, 6) * (abs(low) or 1)
        scale = Scale(low=low, high=low + span)
        values, labels = zip(*scale.ticks(5), strict=True)
        assert 2 <= len(values) <= 6
        assert scale.low <= values[0] <= values[-1] <= scale.high
        step = values[1] - values[0]
        assert f"{step:.0e}"[0] in "125", step
        assert len(set(labels)) == len(labels)
        assert max(map(len, labels)) <= 13
        for value, label in zip(values, labels, strict=True):
            assert _read(label) == pytest.approx(value, abs=step / 50)


def test_logarithmic_ticks() -> None:
    assert [label for _, label in Scale(low=0.5, high=60, log=True).ticks(5)] == [
        "0.5", "1", "2", "5", "10", "20", "50"
    ]  # fmt: skip
    assert [label for _, label in Scale(low=0.02, high=3e4, log=True).ticks(7)] == [
        "0.1", "1", "10", "100", "1000", "10k"
    ]  # fmt: skip
    assert len(Scale(low=1e-200, high=1e200, log=True).ticks(5)) in range(3, 7)


def test_an_axis_is_logarithmic_over_more_than_two_decades_only() -> None:
    assert not value_scale([1.0, 100.0], may_be_log=True).log
    assert value_scale([1.0, 101.0], may_be_log=True).log
    assert not value_scale([1.0, 1000.0]).log
    assert not value_scale([0.0, 1000.0], may_be_log=True).log


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-250, 1e299, 5e-324])
def test_one_level_is_drawn_inside(value: float) -> None:
    drawn = chart("x", [Series(name="x", points=[(5.0, value)])])
    ((x, y),) = places(drawn.lines[0].dots.replace("h0", ""))[0]
    assert x == 500
    assert 0 <= y <= 1000
    assert drawn.up
    assert [tick.label for tick in drawn.across] == ["4", "5", "6"]


def test_values_that_are_not_finite_leave_gaps_and_are_told() -> None:
    values = [1.0, 2.0, math.nan, 3.0, math.inf, 5.0, 4.0, -math.inf, 1e301]
    drawn = chart("x", [Series(name="x", points=list(enumerate(values)))])
    (line,) = drawn.lines
    assert [len(run) for run in places(line.path)] == [2, 2]
    assert len(places(line.dots.replace("h0", ""))) == 5, "the one between two gaps is a dot"
    assert not re.search("nan|inf", line.path + line.dots)
    assert line.values == "1 2 NaN 3 ∞ 5 4 −∞ 1e301"
    assert drawn.notes == ["x is not finite at step 2, 4, 7 and 1 more."]
    nothing = chart("x", [Series(name="x", points=[(1.0, math.nan)])])
    assert nothing.summary == "x: no finite value"
    assert nothing.lines[0].path == nothing.lines[0].dots == ""


def test_thinning_keeps_the_extremes_the_ends_and_the_gaps() -> None:
    draw = random.Random(1)
    points = [(float(step), draw.gauss(0, 1)) for step in range(100_000)]
    points[61_234] = (61_234.0, 50.0)
    points[777] = (777.0, -50.0)
    points[40_000] = (40_000.0, math.nan)
    kept = thinned(points)
    assert MAX_POINTS / 2 < len(kept) <= MAX_POINTS + 2
    steps = [step for step, _ in kept]
    assert steps == sorted(set(steps))
    assert {0.0, 99_999.0, 61_234.0, 777.0, 40_000.0} <= set(steps)
    assert all(math.isnan(value) or points[int(step)][1] == value for step, value in kept)
    for start in range(0, 100_000, 1000):  # wherever one looks, the line goes as high and low as it did
        whole = [value for _, value in points[start : start + 1000] if not math.isnan(value)]
        near = (start - 350, start + 1350)  # a stretch may begin before and end after
        seen = [value for step, value in kept if near[0] <= step < near[1] and not math.isnan(value)]
        assert max(seen) >= max(whole)
        assert min(seen) <= min(whole)
    assert thinned(points[:MAX_POINTS]) == points[:MAX_POINTS]
    assert "Of 100,000 points" in chart("x", [Series(name="x", points=points)]).notes[1]


def test_more_lines_than_colours_are_several_charts() -> None:
    many = [Series(name=str(n), points=[(1.0, float(n))]) for n in range(2 * MAX_LINES + 1)]
    drawn = list(charts("Loss", [*many, Series(name="empty", points=[])]))
    assert [len(one.lines) for one in drawn] == [MAX_LINES, MAX_LINES, 1]
    assert [one.title for one in drawn] == ["Loss (1)", "Loss (2)", "Loss (3)"]
    assert {line.hue for one in drawn for line in one.lines} == set(range(1, MAX_LINES + 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (6.84177, "6.842"), (-2.5, "−2.5"), (9999.4, "9999"), (9999.6, "10k"), (1.5e7, "15M"),
     (7.592e-7, "7.592e-7"), (-1e-4, "−1e-4"), (3e20, "3e20"), (math.nan, "NaN"), (-math.inf, "−∞")],
)  # fmt: skip
def test_compact_numbers(value: float, text: str) -> None:
    assert compact(value) == text


def test_numbers_below_each_other_have_the_same_decimals() -> None:
    assert below_each_other([6.5, 7.25, None, 12.125]) == ["6.500", "7.250", "", "12.125"]
    assert below_each_other([1000, 20]) == ["1,000", "20"]
    assert below_each_other([0.5, 1e-7]) == ["0.5", "1e-07"]
    assert below_each_other([0.25, math.nan]) == ["0.25000", "NaN"]
    assert below_each_other([math.inf, 0.0]) == ["∞", "0"]


# -- what of a history is shown where -----------------------------------------------------------------


def test_every_number_is_in_one_chart_and_each_set_has_its_section() -> None:
    lines: list[dict[str, Any]] = history(10, learning_rate=1e-3, tokens_slots=5, tokens_non_pad=4, aux=0.1)
    sets = ("chat", "chat_de")
    for name in sets:
        results = {f"eval_{name}_{metric}": 0.5 for metric in ("loss", "accuracy", "runtime")}
        lines.append({"step": 10, "flag": True, "word": "x", **results})
    found = sections(lines, sets)
    titles = {
        s.title: [(c.title, [line.name for line in c.lines]) for c in (*s.wide, *s.charts)] for s in found
    }
    assert titles == {
        "Training": [
            ("Loss", ["loss", "eval_loss", "eval_chat_loss", "eval_chat_de_loss"]),
            ("Gradient norm", ["grad_norm"]),
            ("Learning rate", ["learning_rate"]),
            ("aux", ["aux"]),
            ("Tokens", ["tokens_slots", "tokens_non_pad"]),
        ],
        "Evaluation": [("accuracy", ["eval_accuracy"])],
        "Evaluation of chat": [("accuracy", ["eval_chat_accuracy"])],
        "Evaluation of chat_de": [("accuracy", ["eval_chat_de_accuracy"])],
        "Speed and memory": [
            ("eval_runtime", ["eval_runtime"]),
            ("eval_chat_runtime", ["eval_chat_runtime"]),
            ("eval_chat_de_runtime", ["eval_chat_de_runtime"]),
        ],
    }


def test_nothing_logged_is_said(tmp_path: Path) -> None:
    shown = written(tmp_path, [], steps=0)
    assert "Nothing was logged." in shown.texts
    assert shown.all("svg") == []
    assert "Evaluations" not in shown.texts


def test_evaluations_of_a_step_are_one_row_and_the_best_is_marked(tmp_path: Path) -> None:
    lines = [
        {"step": step, "epoch": 1.0, f"eval_{name}_loss": value, "eval_runtime": 1.0}
        for step, value in ((10, 2.5), (20, 1.5), (30, 1.75))
        for name in ("a", "b")
    ]
    table = evaluation_table([{"step": 5, "loss": 1.0}, *lines], 20)
    assert table is not None
    assert table.columns == ["step", "epoch", "eval_a_loss", "eval_b_loss"]
    assert list(table.rows) == [
        ("10", "1", "2.5000", "2.5000"), ("20", "1", "1.5000", "1.5000"), ("30", "1", "1.7500", "1.7500")
    ]  # fmt: skip
    assert table.best == 1
    assert evaluation_table([{"step": 5, "loss": 1.0}], 5) is None
    shown = written(tmp_path, lines, steps=30, of=30)
    assert shown.texts.count("best") == 0, "nobody said which is the best"


def test_of_many_evaluations_the_best_and_the_last_are_listed() -> None:
    table = evaluation_table([{"step": step, "eval_loss": 1.0} for step in range(1, 1001)], 3)
    assert table is not None
    assert table.rows[0][0] == "3"
    assert table.rows[-1][0] == "1,000"
    assert table.best == 0
    assert len(table.rows) <= MAX_ROWS + 1
    assert table.note == f"{len(table.rows)} of 1,000 evaluations are listed."


# -- the leaderboard -----------------------------------------------------------------------------------

JOBS: list[dict[str, Any]] = [
    {"rank": 1, "job": 2, "status": "finished", "values": {"eval_loss": 1.5, "eval_accuracy": 0.5},
     "differences": {"optimizer.learning_rate": 3e-4, "schedule.name": "cosine"}, "folder": "2/report.html"},
    {"rank": 2, "job": 0, "status": "finished", "values": {"eval_loss": 2.25, "eval_accuracy": 0.75},
     "differences": {"optimizer.learning_rate": 1e-5, "schedule.name": None}, "folder": "../../:x y"},
    {"rank": None, "job": 3, "status": "pruned", "values": {"eval_loss": math.nan},
     "differences": {"optimizer.learning_rate": 1e-3, "schedule.name": [1, "a"]}},
    {"rank": None, "job": 1, "status": "failed (2)", "values": {}, "differences": {}, "folder": None},
]  # fmt: skip
COLUMNS = ("optimizer.learning_rate", "schedule.name")


def test_the_leaderboard_shows_every_job() -> None:
    notes = [("sampler", "tpe"), ("seed", "0")]
    shown = Page(leaderboard_page("Sweep", JOBS, metric="eval_loss", columns=COLUMNS, notes=notes))
    assert "4 jobs: 2 finished, 1 pruned, 1 failed. Ranked by eval_loss." in shown.texts
    keys = [cell["data-key"] for cell in shown.all("td")]
    assert [keys[start : start + 6] for start in range(0, len(keys), 6)] == [
        ["1", "2", "finished", "1.5", "0.0003", "cosine"],
        ["2", "0", "finished", "2.25", "1e-05", "null"],
        ["", "3", "pruned", "", "0.001", '[1, "a"]'],
        ["", "1", "failed (2)", "", "", ""],
    ]
    assert {"1.50000", "2.25000", "NaN", "0.0003", "1e-05", "optimizer", "learning_rate"} <= set(shown.texts)
    assert [a["href"] for a in shown.all("a")] == ["./2/report.html", "./../../%3Ax%20y"]
    assert [row.get("class") for row in shown.all("tr")] == [None, "best", None, None, None]
    (svg,) = shown.all("svg")
    assert svg["aria-label"] == "best: 1.5 at job 2; finished: 2.25 at job 0; pruned: no finite value"
    assert {"sampler", "tpe", "seed"} <= set(shown.texts)


def test_a_leaderboard_of_several_metrics_marks_the_front() -> None:
    front = [{**JOBS[0], "rank": 1}, {**JOBS[1], "rank": 1}, JOBS[2]]
    metrics = ["eval_loss", "eval_accuracy"]
    shown = Page(leaderboard_page("Sweep", front, metric=metrics, columns=[], notes=[]))
    assert [row.get("class") for row in shown.all("tr")] == [None, "best", "best", None]
    assert any("Pareto front" in text for text in shown.texts)
    assert len(shown.all("svg")) == 2
    assert "Notes" not in shown.texts
    one = leaderboard_page("Sweep", front, metric="eval_loss", columns=[], notes=[])
    assert "Pareto" not in one


def test_a_leaderboard_without_jobs() -> None:
    shown = Page(leaderboard_page("Sweep", [], metric="eval_loss", columns=[], notes=[]))
    assert "0 jobs. Ranked by eval_loss." in shown.texts
    assert shown.all("svg") == []


# -- how it looks ---------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_that_of_the_accessibility_guidelines(dark: bool) -> None:
    """WCAG 2.2, level AA: 4.5 for texts (1.4.3), 3 for lines of a drawing (1.4.11)."""
    style = (page.HERE / "page.css").read_text(encoding="utf-8")
    theme = style.split("prefers-color-scheme: dark")[dark]
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6}|[0-9a-f]{3});", theme))
    texts = [(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "card")]
    texts += [(tone, f"{tone}-paper") for tone in ("good", "wary", "bad")]
    lines = [(f"hue-{hue}", "card") for hue in range(1, MAX_LINES + 1)]
    for front, back in texts + lines:
        light, shade = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (light + 0.05) / (shade + 0.05) >= (3 if front.startswith("hue") else 4.5), (front, back)
