"""Liger's kernels: the same numbers as our layers, the reference's switches, and clear refusals.

There is no GPU here, so they run in Triton's interpreter, in one process of its own: ``liger_cases``.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.errors import ConfigError
from models.kernels import check_liger, use_liger
from models.options import LigerKernels
from tests.models.liger_names import KERNELS
from tests.models.oracle import ours, raises

ROOT = Path(__file__).resolve().parents[2]
CALLS = {"rope": 2, "rms_norm": 5, "swiglu": 2, "cross_entropy": 1, "fused_linear_cross_entropy": 1}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    """What the process under the interpreter found."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.liger_cases"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("case", "kernels"),
    [
        ("rope-packed", {"rope"}),
        ("rope-padded", {"rope"}),
        ("rms_norm-padded", {"rms_norm"}),
        ("swiglu-padded", {"swiglu"}),
        ("cross_entropy-padded", {"cross_entropy"}),
        ("cross_entropy-smoothing", {"cross_entropy"}),
        ("fused_linear_cross_entropy-padded", {"fused_linear_cross_entropy"}),
        ("fused_linear_cross_entropy-smoothing", {"fused_linear_cross_entropy"}),
        ("all-packed", KERNELS.keys() - {"cross_entropy"}),
        ("all-padded", KERNELS.keys() - {"cross_entropy"}),
        ("all-tied", KERNELS.keys() - {"cross_entropy"}),
        ("gelu", KERNELS.keys() - {"cross_entropy", "swiglu"}),
        ("apertus", {"rope", "rms_norm", "fused_linear_cross_entropy"}),
    ],
)
def test_numbers_equal_those_of_our_layers(case: str, kernels: set[str], cases: dict[str, Any]) -> None:
    found = cases[case]
    calls = CALLS | ({"rms_norm": 9} if case == "apertus" else {})  # of queries and keys too
    assert found["calls"] == {name: calls[name] if name in kernels else 0 for name in calls}
    assert found["names_kept"], "checkpoints hold the same names"
    for value in ("loss", "hidden", "gradients"):
        assert found[value] <= 1e-5, value


@pytest.mark.parametrize("kernel", ["cross_entropy", "fused_linear_cross_entropy"])
def test_losses_behave_as_our_head(kernel: str, cases: dict[str, Any]) -> None:
    found = cases[f"{kernel}-nothing"]
    assert found["loss"] == pytest.approx(found["expected"], rel=1e-5)
    assert found["finite"], "what is not supervised has no influence at all"
    assert found["none"] == 0
    assert cases[f"{kernel}-frozen"]["distance"] <= 1e-5, "the head learns on a frozen backbone"


def test_kernels_under_gradient_checkpointing(cases: dict[str, Any]) -> None:
    assert cases["recomputed"]["gradients"] <= 1e-5


def test_sentences_say_what_was_replaced(cases: dict[str, Any]) -> None:
    assert cases["all-packed"]["said"] == [
        "Liger's rope computes 2 modules.",
        "Liger's rms_norm computes 5 modules.",
        "Liger's swiglu computes 2 modules.",
        "Liger's fused_linear_cross_entropy computes 1 module.",
    ]
    unused = "is not used: this model has nothing that it could replace."
    assert f"Liger's swiglu {unused}" in cases["gelu"]["said"]
    assert cases["headless"][-1] == f"Liger's fused_linear_cross_entropy {unused}"


def test_a_kernel_without_use_is_refused_if_asked_for(cases: dict[str, Any]) -> None:
    nothing = "this model has nothing to use it for."
    assert cases["swiglu-on-gelu"] == f"training.liger_kernel_config.swiglu: {nothing}"
    assert cases["nothing"] == f"training.use_liger_kernel: {nothing}"


def test_liger_is_used_without_transformers(cases: dict[str, Any]) -> None:
    assert cases["blocked"] == ["transformers", "peft", "trl"]


def test_importing_the_kernels_leaves_transformers_alone() -> None:
    code = (
        "import sys; from models.kernels import check_liger; check_liger(); "
        "assert 'models.liger' in sys.modules; print(sorted({'transformers', 'peft'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_switches_and_defaults_are_ligers_own() -> None:
    spec = find_spec("liger_kernel")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "transformers/monkey_patch.py").read_text(encoding="utf-8")
    [function] = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "apply_liger_kernel_to_llama"
    ]
    names = [argument.arg for argument in function.args.args]
    theirs = dict(zip(names, map(ast.literal_eval, function.args.defaults), strict=True))
    del theirs["model"]
    assert {f.name: f.default for f in fields(LigerKernels)} == theirs


def test_both_losses_at_once_and_unknown_kernels_are_refused() -> None:
    assert raises(lambda: check_liger({"cross_entropy": True})) == (
        "training.liger_kernel_config.cross_entropy: fused_linear_cross_entropy, on unless set to false, is "
        "a kernel of the same loss; set one of the two to false."
    )
    wrong, path = {"swigloo": True, "rope": "perhaps"}, "training.liger_kernel_config"
    with pytest.raises(ConfigError) as caught:
        check_liger(wrong)  # type: ignore[arg-type]
    assert caught.value.problems == (
        f"{path}.swigloo: no such key; did you mean '{path}.swiglu'?",
        f"{path}.rope: true or false is wanted, 'perhaps' was given.",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_machine_without_a_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ConfigError, match="Liger's kernels need a GPU, and there is none here; set it to fal"
    ):
        use_liger(ours())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "models.liger", raising=False)
    monkeypatch.delattr("models.liger", raising=False)
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    with pytest.raises(
        ConfigError, match=r"training.use_liger_kernel: needs a package .* 'stockpot\[liger\]'"
    ):
        use_liger(ours())
