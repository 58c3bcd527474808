"""Composition: what becomes of the words of a command line, and that no file can make Hydra run code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from conf import compose
from conf.compose import Composed
from conf.errors import ConfigError

GLOBAL = "# @package _global_\n"
GROUPS = {"optimizer": ["adamw_torch", "sgd"], "callbacks": ["default"], "data": ["mine"]}
LISTED = ("optimizer", "callbacks")

Write = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write({name: text})``: files of a user's own folder, which is returned."""

    def written(files: Mapping[str, str]) -> Path:
        folder = tmp_path / "mine"
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return folder

    return written


def composed(*words: str) -> Composed:
    found = compose.compose(words)
    assert found is not None
    return found


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as raised:
        compose.compose(words)
    return str(raised.value)


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("training.max_steps=3", "++training.max_steps=3"),
        ("trainin.max_step=3", "++trainin.max_step=3"),
        ("a=b=c", "++a=b=c"),
        ("+a.b=c", "++a.b=c"),
        ("++a.b=c", "++a.b=c"),
        ("~a.b", "~a.b"),
        ("~a.b=c", "~a.b=c"),
        ("recipe=sft", "+recipe=sft"),
        ("+recipe=sft", "+recipe=sft"),
        ("++recipe=sft", "+recipe=sft"),
        ("optimizer=sgd", "optimizer=sgd"),
        ("+optimizer=sgd", "optimizer=sgd"),
        ("callbacks=[default]", "callbacks=[default]"),
        ("data=mine", "+data=mine"),
        ("optimizer.name=sgd", "++optimizer.name=sgd"),
        ("optimizer@other=sgd", "optimizer@other=sgd"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("hydra/job_logging=stdout", "hydra/job_logging=stdout"),
        ("hydration=1", "++hydration=1"),
        ("job", "job"),
        ("", ""),
    ],
)
def test_rewriting(word: str, wanted: str) -> None:
    assert compose.rewrite(word, GROUPS, LISTED) == wanted


@pytest.mark.parametrize("value", ["../../evil", "null", "5", "[sgd,nope]", ""])
def test_an_option_that_a_group_does_not_have(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^optimizer: there is no '.*'; (did you mean|known are) .*"):
        compose.rewrite(f"optimizer={value}", GROUPS, LISTED)


def test_a_recipe_with_and_without_plus_is_the_same() -> None:
    plain, plus = composed("recipe=sft_llama"), composed("+recipe=sft_llama")
    assert plain == plus
    assert plain.recipe == "sft_llama"
    assert plain.data["model"] == {"name": "llama", "preset": "small"}
    assert plain.data["schedule"]["name"] == "cosine", "the recipe's choice of a group wins over the default"


def test_flags_may_stand_anywhere(write: Write, capsys: Any) -> None:
    folder = write({"recipe/mine.yaml": f"{GLOBAL}model: {{preset: tiny}}\n"})
    assert compose.split(["a=1", "-cd", "x", "b=2", "--resolve"]) == (
        ["-cd", "x", "--resolve"],
        ["a=1", "b=2"],
    )
    found = composed("training.seed=1", "--config-dir", str(folder), "+recipe=mine", "data.max_length=9")
    assert found.data["training"] == {"seed": 1}
    assert found.data["data"] == {"max_length": 9}
    assert compose.compose(["+recipe=sft_llama", "--cfg", "job", "training.seed=77"]) is None
    assert "seed: 77" in capsys.readouterr().out


def test_typed_paths_and_who_typed_them() -> None:
    found = composed(
        "+recipe=sft_llama",
        "training.num_train_epochs=2",
        "optimizer=sgd",
        "evaluation={eval_strategy: steps, eval_steps: 5}",
        "data.train={mine:{path:x.jsonl,format:chat}}",
        "callbacks.samples=null",
    )
    given = found.given
    typed = {path for path, where in given.items() if where == "command line"}
    assert typed == {
        "training.num_train_epochs",
        "optimizer",
        "optimizer.name",
        "evaluation.eval_strategy",
        "evaluation.eval_steps",
        "data.train.mine.path",
        "data.train.mine.format",
        "callbacks.samples",
    }
    assert given["optimizer.learning_rate"] == "recipe"
    assert given["data.train.chat.path"] == "recipe"
    assert not any(path.startswith("defaults") for path in given)
    assert found.data["optimizer"]["name"] == "sgd"
    assert found.data["training"]["num_train_epochs"] == 2
    assert found.data["callbacks"]["samples"] is None
    assert found.data["data"]["train"]["mine"] == {"path": "x.jsonl", "format": "chat"}


def test_options_of_groups_win_over_the_recipe_wherever_they_stand(write: Write) -> None:
    own = write({"evaluation/often.yaml": "eval_strategy: steps\neval_steps: 2\n"})
    words = ("checkpoint=best", "metrics=[accuracy,perplexity]", "evaluation=often", f"--config-dir={own}")
    for order in (("+recipe=sft_llama", *words), (*words, "+recipe=sft_llama")):
        found = composed(*order)
        assert found.data["checkpoint"]["save_strategy"] == "best"
        assert found.data["checkpoint"]["save_total_limit"] == 3, "the rest is the recipe's"
        assert found.data["evaluation"] == {"eval_strategy": "steps", "eval_steps": 2}
        assert found.data["metrics"] == {"accuracy": {}, "perplexity": {}}
        typed = {path for path, where in found.given.items() if where == "command line"}
        assert typed == {
            "checkpoint.save_strategy",
            "checkpoint.load_best_model_at_end",
            "metrics.accuracy",
            "metrics.perplexity",
            "evaluation.eval_strategy",
            "evaluation.eval_steps",
        }


def test_two_command_lines_in_one_process_do_not_disturb_each_other(write: Write) -> None:
    first = composed("+recipe=sft_llama")
    own = write({"recipe/sft_llama.yaml": f"{GLOBAL}model: {{preset: tiny}}\n"})
    assert composed("+recipe=sft_llama", f"--config-dir={own}").data["model"]["preset"] == "tiny"
    assert composed("+recipe=sft_llama") == first


# -- what is wrong on a command line -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["+recipe=sft_lama"], "recipe: there is no 'sft_lama'; did you mean 'sft_llama'?"),
        (["recipe=zzz"], "recipe: there is no 'zzz'; known are pretrain_llama, sft_llama."),
        (["+recipe="], "recipe: there is no ''; known are pretrain_llama, sft_llama."),
        (
            ["+recipe=[sft_llama,pretrain_llama]"],
            "recipe: there is no '[sft_llama,pretrain_llama]'; did you mean",
        ),
        (["optimizer=adamw_torc"], "optimizer: there is no 'adamw_torc'; did you mean 'adamw_torch'?"),
        (
            ["schedule=zzz"],
            "schedule: there is no 'zzz'; known are constant, constant_with_warmup, cosine, ",
        ),
        (["hello"], "hello: not understood on the command line; quote values with special characters, as in"),
        (["a=[1"], "a=[1: not understood on the command line; quote values with special characters, as in"),
        (["=3"], "=3: not understood on the command line; there is no name before the equals sign."),
        (
            ["optimizer.learning_rate=1,2"],
            "optimizer.learning_rate: '1,2' are several; sweep over them with --multirun, or give a list as "
            "[1,2].",
        ),
        (["~data"], "configuration: Could not delete from config. 'data' does not exist."),
        (["logging.run_name=${nope}"], "logging.run_name: Interpolation key 'nope' not found"),
        (["logging.run_name=???"], "logging.run_name: a value is required and none was given."),
        (["--mulitrun"], "--mulitrun: there is no such flag; did you mean '--multirun'?"),
        (["--config-di=x"], "--config-di: there is no such flag; did you mean '--config-dir'?"),
        (["--config-path=x"], "--config-path: there is no such flag; did you mean '--config-dir'?"),
        (["--config-name=x"], "--config-name: there is no such flag;"),
        (["--experimental-rerun=x"], "--experimental-rerun: there is no such flag;"),
        (["--config-dir=nowhere"], "--config-dir: there is no folder"),
        (["--config-dir"], "--config-dir: there is no folder"),
        (
            ["--config-dir=.", "--config-dir=."],
            "--config-dir: it is given twice; put everything into one folder.",
        ),
        (["--cfg", "jobb"], "command line: a flag has no value, or one that it does not know."),
        (["hydra.searchpath=[file:///tmp]"], "hydra.searchpath: give a folder of your own by --config-dir."),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_stops_a_composition_is_one_sentence(words: list[str], text: str, capfd: Any) -> None:
    said = refusal(*words)
    assert said.startswith(text)
    assert "\n" not in said
    assert "+" not in said, "no advice to add a plus"
    if words[0] != "--cfg":
        assert capfd.readouterr().err == "", "Hydra says nothing of its own"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trainng.max_steps=3", "trainng: no such key; did you mean 'training'?"),
        ("training.max_step=3", "training.max_step: no such key; did you mean 'training.max_steps'?"),
        ("model.presett=tiny", "model.presett: no such key; did you mean 'model.preset'?"),
        ("optimizr=sgd", "optimizr: no such key; did you mean 'optimizer'?"),
        (
            "data.train.chat.frmat=chat",
            "data.train.chat.frmat: no such key; did you mean 'data.train.chat.format'?",
        ),
        (
            "model.config.hiden_size=8",
            "model.config.hiden_size: no such key; did you mean 'model.config.hidden_size'?",
        ),
        ("recipee=sft_llama", "recipee: no such key; known are averaging, callbacks, check, checkpoint,"),
        (
            "learning_rate=1",
            "learning_rate: no such key here; 'learning_rate' lives at 'optimizer.learning_rate'.",
        ),
    ],
)
def test_a_misspelling_composes_and_is_left_to_the_decoder(word: str, said: str) -> None:
    """Hydra would stop here and advise a plus; the decoder has the nearest spelling."""
    from trainer.checks import judged

    for typed in (word, f"+{word}", f"++{word}"):
        found = composed("+recipe=sft_llama", typed)
        with pytest.raises(ConfigError) as raised:
            judged(found.data, found.given)
        assert len(raised.value.problems) == 1
        assert raised.value.problems[0].startswith(said)


# -- a user's own folder -----------------------------------------------------------------------------


def test_a_recipe_of_the_users_own(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = f"{GLOBAL}# Mine.\ndefaults: [{{override /optimizer: sgd}}]\nmodel: {{preset: tiny}}\n"
    folder = write({"recipe/mine.yaml": recipe})
    monkeypatch.chdir(tmp_path)
    for flag in (["--config-dir", str(folder)], [f"--config-dir={folder}"], ["-cd", "mine"]):
        found = composed(*flag, "+recipe=mine")
        assert found.recipe == "mine"
        assert found.data["optimizer"] == {"name": "sgd"}
        assert found.given == {"model.preset": "recipe"}
    assert (
        refusal(f"--config-dir={folder}", "+recipe=min") == "recipe: there is no 'min'; did you mean 'mine'?"
    )
    assert compose.describe(folder / "recipe" / "mine.yaml") == "Mine."


def test_a_group_of_the_users_own(write: Write) -> None:
    files = {
        "optimizer/gentle.yaml": "name: sgd\nlearning_rate: 1e-6\n",
        "data/letters.yaml": "max_length: 77\n",
        "recipe/mine.yaml": f"{GLOBAL}defaults: [{{/data: letters}}]\nmodel: {{preset: tiny}}\n",
        "data/short.yaml": "max_length: 7\n",
    }
    folder = f"--config-dir={write(files)}"
    assert composed(folder, "optimizer=gentle").data["optimizer"]["learning_rate"] == 1e-6
    assert composed(folder, "data=letters").data["data"] == {"max_length": 77}, "a group without a default"
    assert composed(folder, "+data=letters").data["data"] == {"max_length": 77}
    assert composed(folder, "+recipe=mine").data["data"] == {"max_length": 77}
    assert composed(folder, "+recipe=mine", "data=short").data["data"] == {"max_length": 7}
    assert refusal(folder, "data=leters") == "data: there is no 'leters'; did you mean 'letters'?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{GLOBAL}a: [1\nb: 2\n", " line 3: not valid YAML (did not find expected ',' or ']')."),
        (f"{GLOBAL}a:\n\tb: 1\n", " line 3: not valid YAML (found character that cannot start any token)."),
        (f"{GLOBAL}a: 1\n---\nb: 1\n", " line 3: not valid YAML (but found another document)."),
        (f"{GLOBAL}a: 1\na: 2\n", " line 3: not valid YAML (found duplicate key a)."),
        (f"{GLOBAL}- a\n", ": a mapping is wanted, list was found."),
        (
            f"{GLOBAL}a: !!python/object/apply:os.system [ls]\n",
            " line 2: not valid YAML (could not determine",
        ),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_its_line(write: Write, text: str, said: str) -> None:
    folder = write({"recipe/mine.yaml": text})
    message = refusal(f"--config-dir={folder}", "+recipe=mine")
    assert message.startswith(f"{folder / 'recipe' / 'mine.yaml'}{said}")


def test_a_file_that_is_no_text_is_named(write: Write) -> None:
    file = write({"recipe/mine.yaml": GLOBAL}) / "recipe" / "mine.yaml"
    file.write_bytes(b"a: \xff\n")
    assert (
        refusal(f"--config-dir={file.parent.parent}", "+recipe=mine") == f"{file}: not UTF-8 text (byte 3)."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "defaults: [{override /optimiser: sgd}]\n",
            "configuration: In 'recipe/mine': Could not override 'optimiser'.",
        ),
        ("defaults: [{override /optimizer: sgdd}]\n", "optimizer: there is no 'sgdd'; did you mean 'sgd'?"),
        (
            "defaults: {a: b}\n",
            "configuration: Invalid defaults list in 'recipe/mine', defaults must be a list",
        ),
        (
            "model: [5]\n",
            "configuration: In 'recipe/mine': ConfigTypeError raised while composing config: Cannot merge",
        ),
        ("model:\n  preset: ???\n", "model.preset: a value is required and none was given."),
        ("model: {preset: '${nope}'}\n", "model.preset: Interpolation key 'nope' not found"),
    ],
)
def test_a_recipe_that_does_not_compose(write: Write, text: str, said: str, capfd: Any) -> None:
    folder = write({"recipe/mine.yaml": GLOBAL + text})
    assert refusal(f"--config-dir={folder}", "+recipe=mine").startswith(said)
    assert capfd.readouterr().err == ""


# -- no file can make Hydra run code -----------------------------------------------------------------

TARGET = "{_target_: os.system}"
LOGGING = "version: 1\nhandlers: {h: {'()': os.system, command: ls}}\nroot: {handlers: [h]}\n"
SMUGGLED: dict[str, dict[str, str]] = {
    "the key": {"recipe/mine.yaml": f"{GLOBAL}hydra: {{callbacks: {{x: {TARGET}}}}}\n"},
    "the key, quoted and escaped": {"recipe/mine.yaml": f'{GLOBAL}"hy\\x64ra": {{run: {{dir: x}}}}\n'},
    "a complex key": {"recipe/mine.yaml": f"{GLOBAL}? hydra\n: {{run: {{dir: x}}}}\n"},
    "a flow mapping": {
        "recipe/mine.yaml": f"{GLOBAL}{{model: {{preset: tiny}}, hydra: {{run: {{dir: x}}}}}}\n"
    },
    "an anchor": {"recipe/mine.yaml": f"{GLOBAL}model: &a {{hydra: {{run: {{dir: x}}}}}}\n<<: *a\n"},
    "a dotted key": {"recipe/mine.yaml": f"{GLOBAL}hydra.run.dir: x\n"},
    "a key with a package": {"recipe/mine.yaml": f"{GLOBAL}'hydra/launcher@x': y\n"},
    "an import, deep": {"recipe/mine.yaml": f"{GLOBAL}model: {{config: [{{a: {TARGET}}}]}}\n"},
    "an import in a group": {"optimizer/mine.yaml": "name: sgd\n_target_: os.system\n"},
    "a package line": {"recipe/mine.yaml": f"# @package hydra.job_logging\n{LOGGING}"},
    "a package line, indented": {"recipe/mine.yaml": f"   #   @package   hydra.job_logging\n{LOGGING}"},
    "a second package line": {"recipe/mine.yaml": f"{GLOBAL}# @package hydra.job_logging\n{LOGGING}"},
    "a global package line": {"recipe/mine.yaml": f"# @package _global_.hydra.job_logging\n{LOGGING}"},
    "an override": {"recipe/mine.yaml": f"{GLOBAL}defaults: [{{override /hydra/job_logging: stdout}}]\n"},
    "an override in one word": {
        "recipe/mine.yaml": f"{GLOBAL}defaults: ['override /hydra/job_logging: stdout']\n"
    },
    "an entry": {"recipe/mine.yaml": f"{GLOBAL}defaults: [/hydra/job_logging/stdout]\n"},
    "a package of an entry": {
        "recipe/mine.yaml": f"{GLOBAL}defaults: [{{/optimizer@hydra.callbacks: sgd}}]\n"
    },
    "a package put together": {
        "recipe/mine.yaml": f"{GLOBAL}x: hydra\ndefaults: ['/optimizer/sgd@${{x}}.callbacks']\n"
    },
    "a file that the recipe names": {
        "recipe/mine.yaml": f"{GLOBAL}defaults: [/zz/evil@_global_]\n",
        "zz/evil.yaml": "hydra: {run: {dir: x}}\n",
    },
    "a group of Hydra's": {"recipe/mine.yaml": GLOBAL, "hydra/job_logging/none.yaml": LOGGING},
    "a folder outside": {"recipe/mine.yaml": f"{GLOBAL}defaults: [/../outside/evil@_global_]\n"},
    "a folder outside, relative": {
        "recipe/mine.yaml": f"{GLOBAL}defaults: ['../../outside/evil@_global_']\n"
    },
    "a folder anywhere": {"recipe/mine.yaml": f"{GLOBAL}defaults: [//tmp/evil@_global_]\n"},
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_code_in_a_configuration_is_refused(how: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    folder = write(SMUGGLED[how])
    message = refusal(
        f"--config-dir={folder}", "+recipe=mine" if "recipe/mine.yaml" in SMUGGLED[how] else "a=1"
    )
    assert re.search(
        r"which must never run code\.$|may not place itself in Hydra's own node\.$", message, re.MULTILINE
    )
    assert str(folder) in message
    assert ran == []


def test_code_behind_a_link_is_refused(write: Write, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "evil.yaml").write_text("hydra: {run: {dir: x}}\n")
    folder = write({"recipe/mine.yaml": f"{GLOBAL}defaults: [/zz/evil@_global_]\n"})
    (folder / "zz").symlink_to(outside)
    (folder / "round").symlink_to(folder)  # a circle is walked once
    assert refusal(f"--config-dir={folder}", "+recipe=mine").splitlines() == [
        f"{folder / 'zz' / 'evil.yaml'}: 'hydra' is not allowed in a configuration, which must never run "
        "code."
    ]


def test_harmless_words_are_not_refused(write: Write) -> None:
    text = (
        f"{GLOBAL}# about @package lines and hydra\nmodel: {{preset: tiny}}\n"
        "logging: {run_name: 'hydra // .. $'}\n"
        "data: {train: {hydra: {path: ../data/x.jsonl, format: chat}}}\n"
    )
    found = composed(f"--config-dir={write({'recipe/mine.yaml': text})}", "+recipe=mine")
    assert found.data["logging"]["run_name"] == "hydra // .. $"
    assert found.data["data"]["train"]["hydra"]["path"] == "../data/x.jsonl"


def test_the_shipped_recipes_pass() -> None:
    compose.refuse_code(compose.recipes().values())


def test_composing_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    composed("+recipe=sft_llama", "optimizer=sgd")
    with pytest.raises(ConfigError):
        compose.compose(["optimizer=zzz"])
    assert list(tmp_path.iterdir()) == []
