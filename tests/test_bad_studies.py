"""Studies that cannot be, by mistake or by malice: each is refused in a sentence before anything is spent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from repro import cli
from repro.config import load_study
from repro.discovery import load_method, method_ids
from repro.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SMOKE = (ROOT / "benchmarks" / "studies" / "smoke.yaml").read_text()
END = len(SMOKE.splitlines()) + 1
VALUES: dict[str, Any] = yaml.safe_load(SMOKE)
HUB = {"source": "hub", "name": "some/model", "revision": "0" * 40}
PRM = {"kind": "causal", "path": "prm"}
INFINITE, NAN = float("inf"), float("nan")


def changed(key: str, value: Any) -> str:
    """The smoke study with another value at a dotted key."""
    values = deepcopy(VALUES)
    *sections, last = key.split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    return yaml.safe_dump(values, allow_unicode=True)


def refusal(path: Path, content: str | bytes, check: Callable[[Path], object] = load_study) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        check(path)
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1 and len(sentence) < 700 + len(str(path))
    return sentence


@pytest.mark.promise(
    "Files and code of others", "A file that is no study is refused in one sentence, whatever is in it."
)
@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("seeds", [-1], "`seeds.0`: Input should be greater than or equal to 0"),
        ("seeds", [2**31], "`seeds.0`: Input should be less than 2147483648"),
        ("seeds", [10**60], "a number is too long"),
        ("seeds", [0.5], "`seeds.0`: Input should be a valid integer"),
        ("seeds", list(range(2_000)), "`seeds`: List should have at most 1000 items"),
        ("seeds", [1, 2, 1], "`seeds`: 1 is there twice"),
        ("seeds", 0, "`seeds`: Input should be a valid list"),
        ("methods", [], "`methods`: Dictionary should have at least 1 item"),
        ("methods", ["star", "rft", "star"], "`methods`: 'star' is there twice; remove one of them"),
        ("methods", "star", "`methods`: a list of methods is wanted, such as [star], or all"),
        ("methods", ["_template"], "`methods`: String should match pattern"),
        ("methods", ["../Star"], "`methods`: String should match pattern"),
        ("methods", ["star", 5], "`methods`: 5 is no name of a method"),
        ("methods", None, "`methods`: Input should be 'all'"),
        ("name", "a" * 300, "`name`: String should have at most 100 characters"),
        ("name", "../up", "`name`: String should match pattern"),
        ("name", "smoke\n", "`name`: String should match pattern"),
        ("name", True, "`name`: Input should be a valid string"),
        ("title", "", "`title`: String should have at least 1 character"),
        ("title", "one\ntwo", "`title`: one line is wanted"),
        ("budgets", [0], "`budgets.0`: Input should be greater than 0"),
        ("budgets", [-1e9], "`budgets.0`: Input should be greater than 0"),
        ("budgets", [NAN], "nan is no finite number"),
        ("budgets", [INFINITE], "inf is no finite number"),
        ("budgets", ["1e400"], "`budgets.0`: Input should be a valid integer"),
        ("budgets", [1e30], "`budgets.0`: Input should be less than or equal to 1"),
        ("budgets", [1e9, 1e8], "budgets must ascend without repeats, not 1e+09, 1e+08"),
        ("gpus", -1, "`gpus`: Input should be greater than or equal to 0"),
        ("gpus", 10**6, "`gpus`: Input should be less than or equal to 1024"),
        ("target_accuracies", [1.5], "`target_accuracies.0`: Input should be less than or equal to 1"),
        ("target_accuracies", [-0.1], "`target_accuracies.0`: Input should be greater than or equal to 0"),
        ("target_accuracies", [0.1, 0.1], "`target_accuracies`: 0.1 is there twice"),
        ("evaluation.benchmarks.ladder.samples", 10**9, "`evaluation.benchmarks.ladder.samples`: Input"),
        ("evaluation.benchmarks.ladder.limit", 0, "`evaluation.benchmarks.ladder.limit`: Input should be"),
        ("evaluation.benchmarks", {}, "`evaluation.benchmarks`: Dictionary should have at least 1 item"),
        ("evaluation.max_tokens", 10**9, "`evaluation.max_tokens`: Input should be less than or equal to"),
        ("prompt.stop", [""], "`prompt.stop.0`: String should have at least 1 character"),
        ("prompt.stop", "###", "`prompt.stop`: Input should be a valid list"),
        ("prompt.shots", 10**6, "`prompt.shots`: Input should be less than or equal to 1000"),
        ("prompt.template", "", "`prompt`: template must contain {question}"),
        ("prompt.system", "a\0b", "a text holds what is no character"),
        ("problems.train", 10**9, "`problems.train`: Input should be less than or equal to 1000000"),
        ("problems.train", "all", "`problems.train`: Input should be a valid integer"),
        ("problems.seed", -1, "`problems.seed`: Input should be greater than or equal to 0"),
        ("problems.source", ["ladder"], "`problems`: Input tag '['ladder']' found"),
        ("problems", [], "`problems`: Input should be a valid dictionary"),
        ("base_model.config.hidden_size", -1, "`base_model.config`: hidden_size is -1, where a whole number"),
        ("base_model.config.hidden_size", 10**9, "hidden_size is 1000000000, where a whole number from 1 to"),
        ("base_model.config.num_hidden_layers", True, "num_hidden_layers is True, where a whole number"),
        ("base_model.config.num_key_value_heads", 2, "2, which does not divide num_attention_heads, 3"),
        ("base_model.config.head_dim", 33, "the size of a head is 33, where rotary embeddings need an even"),
        ("base_model.config", {"hidden_size": 97, "num_attention_heads": 3}, "3, which does not divide hi"),
        ("base_model.config.vocab_size", 9, "vocab_size follows from the tokenizer, which the suite makes"),
        ("base_model.config.initializer_range", NAN, "nan is no finite number"),
        ("base_model.config", [], "`base_model.config`: Input should be a valid dictionary"),
        ("base_model.steps", 10**9, "`base_model.steps`: Input should be less than or equal to 1000000"),
        ("base_model.batch_size", 60_000, "`base_model`: steps x batch_size is 30000000 rows, which lie"),
        ("base_model.optimizer.learning_rate", INFINITE, "inf is no finite number"),
        ("base_model.optimizer.max_grad_norm", -1, "`base_model.optimizer.max_grad_norm`: Input should be"),
        ("base_model.optimizer.beta1", 1, "`base_model.optimizer.beta1`: Input should be less than 1"),
        ("base_model", {**HUB, "name": "../.."}, "`base_model.name`: String should match pattern"),
        ("base_model", {**HUB, "name": "a/b..c"}, "`base_model.name`: no name of a model of the hub"),
        ("base_model", {**HUB, "name": "a/" + "b" * 300}, "`base_model.name`: String should have at most 96"),
        ("base_model", {**HUB, "revision": "main"}, "`base_model.revision`: String should match pattern"),
        ("base_model", {"path": "x"}, "`base_model`: Unable to extract tag using discriminator 'source'"),
        ("base_model", "pocket", "`base_model`: Input should be a valid dictionary"),
        ("process_rewards", {**PRM, "separator": ""}, "`process_rewards.separator`: String should have at"),
        ("process_rewards", {**PRM, "kind": "value"}, "`process_rewards.kind`: Input should be 'token_class"),
        ("process_rewards", {**PRM, "name": "a/b"}, "`process_rewards`: name the model by path, or by name"),
        ("process_rewards", 5, "`process_rewards`: Input should be 'ladder'"),
        ("sampling.max_tokens", 10**9, "`sampling.max_tokens`: Input should be less than or equal to"),
        ("sampling.batch_size", 10**9, "`sampling.batch_size`: Input should be less than or equal to 65536"),
        ("sampling.top-p", 1, "unknown key `sampling.top-p`; known here: engine, batch_size"),
        ("sampling", None, "`sampling`: Input should be a valid dictionary"),
        ("training.lora.rank", 0, "`training.lora.rank`: Input should be greater than 0"),
        ("training.micro_batch", 0, "`training.micro_batch`: Input should be greater than 0"),
        ("training.save_every", -1, "`training.save_every`: Input should be greater than 0"),
        ("k" * 400, 1, "unknown key `kkkk"),
        ("hyperparameters._template", {}, "`hyperparameters._template`: String should match pattern"),
        ("hyperparameters.star", None, "`hyperparameters.star`: Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_impossible_values(tmp_path: Path, key: str, value: Any, complaint: str) -> None:
    sentence = refusal(tmp_path / "study.yaml", changed(key, value))
    assert str(tmp_path / "study.yaml") in sentence and complaint in sentence


@pytest.mark.parametrize(
    ("method", "key", "value", "complaint"),
    [
        ("star", "temperature", -0.1, "`temperature`: Input should be greater than or equal to 0 (it is"),
        ("star", "temperature", 1e6, "`temperature`: Input should be less than or equal to 100"),
        ("adastar", "top_p", 0, "`top_p`: Input should be greater than 0"),
        ("adastar", "top_p", 1.01, "`top_p`: Input should be less than or equal to 1"),
        ("adastar", "top_k", -1, "`top_k`: Input should be greater than or equal to 0"),
        ("adastar", "batch_size", 0, "`batch_size`: Input should be greater than or equal to 1"),
        ("adastar", "batch_size", 10**9, "`batch_size`: Input should be less than or equal to 65536"),
        ("adastar", "first_steps", 0, "`first_steps`: Input should be greater than or equal to 1"),
        ("adastar", "growth", -1, "`growth`: Input should be greater than or equal to 1"),
        ("adastar", "power", -1, "`power`: Input should be greater than or equal to 0"),
        ("adastar", "chunk", 0, "`chunk`: Input should be greater than or equal to 1"),
        ("adastar", "attempts", 10**12, "`attempts`: Input should be less than or equal to"),
        ("rft", "epochs", 0, "`epochs`: Input should be greater than 0"),
        ("rft", "k_max", -3, "`k_max`: Input should be greater than or equal to 1"),
        ("rft", "n_problems", 0, "`n_problems`: Input should be greater than or equal to 1"),
        ("rft", "optimizer", {"learning_rate": 1, "beta2": 1}, "`optimizer.beta2`: Input should be less"),
        ("rft", "optimizer", {"learning_rate": 1, "max_grad_norm": -1}, "`optimizer.max_grad_norm`: Input"),
        ("rft", "plans", False, "`plans`: Input should be True"),
        ("b_star", "k", 0, "`k`: Input should be greater than or equal to 1"),
        ("b_star", "temperatures", [], "`temperatures`: Tuple should have at least 1 item"),
        ("b_star", "temperatures", [1, -1], "`temperatures`: Input should be greater than or equal to 0"),
        ("b_star", "thresholds", [], "`thresholds`: Tuple should have at least 1 item"),
        ("hs_star", "n", 0, "`n`: Input should be greater than or equal to 1"),
        ("hs_star", "tau_high", 2, "`tau_high`: Input should be less than or equal to 1"),
        ("hs_star", "objective", {"beta": 0}, "`objective.beta`: Input should be greater than 0"),
    ],
)  # fmt: skip
def test_impossible_hyperparameters(
    tmp_path: Path, method: str, key: str, value: Any, complaint: str
) -> None:
    content = changed(f"hyperparameters.{method}.{key}", value)
    sentence = refusal(tmp_path / "study.yaml", content, lambda path: load_method(load_study(path), method))
    assert sentence.startswith(f"study smoke, hyperparameters.{method}: ") and complaint in sentence


def nested(opening: str, closing: str) -> str:
    return "a: " + opening * 3_000 + closing * 3_000


def bomb(first: str, row: str) -> str:
    """Ten lines of YAML that unfold to ten billion values: each holds ten aliases of the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {row.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, 11)]
    return "\n".join(lines)


@pytest.mark.promise(
    "Files and code of others", "A file that is no study is refused in one sentence, whatever is in it."
)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (SMOKE.replace("Smoke", "Smök").encode("latin-1"), "line 4: not text in UTF-8"),
        (SMOKE.encode("utf-16"), "line 1: not text in UTF-8"),
        (SMOKE.encode("utf-16-le"), "not YAML (unacceptable character #x0000"),
        (bytes(range(256)), "line 2: not text in UTF-8"),
        (nested("[", "]"), "line 1: more than 50 levels"),
        (nested("{b: ", "}"), "line 1: more than 50 levels"),
        (bomb("[x, x]", "[{}]"), "line 5: more than 20000 values"),
        (bomb("{x: 1}", "{{<<: [{}]}}"), "line 5: more than 20000 values"),
        ("a: &a [*a]", "line 1: more than 20000 values"),
        ("a: [" + "1, " * 20_000 + "]", "line 1: more than 20000 values"),
        (SMOKE + "seeds: [1]\n", f"line {END}: the key `seeds` is there twice; mend that line"),
        (SMOKE.replace("  test: 80", "  test: 80\n  test: 90"), "line 14: the key `test` is there twice"),
        ("seeds: [" + "9" * 5_000 + "]", "line 1: a value that is none of its type, int"),
        ("seeds: [0x" + "f" * 50_000 + "]", "line 1: a number is too long"),
        ("a: 2024-13-45", "line 1: a value that is none of its type, timestamp"),
        ("a: !!bool maybe", "line 1: a value that is none of its type, bool"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: not YAML (could not determine a constructor"),
        ("? [a]\n: b", "line 1: not YAML (found unhashable key)"),
        ("a: *b", "line 1: not YAML (found undefined alias 'b')"),
        ("name:\tx\n\tseeds: 1", "line 1: not YAML (found character '\\t'"),
        (SMOKE + "---\n" + SMOKE, f"line {END}: not YAML (but found another document)"),
        (SMOKE.replace("Smoke study", '"\\ud800"'), "line 4: a text holds what is no character"),
        (SMOKE + "5: 1\n", "Keys should be strings"),
        ("<html><body>404</body></html>", "a study is a mapping of keys"),
    ],
)  # fmt: skip
def test_files_that_are_no_study(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    sentence = refusal(tmp_path / "study.yaml", content)
    assert sentence.startswith(str(tmp_path / "study.yaml")) and complaint in sentence


def test_what_looks_odd_and_is_a_study(tmp_path: Path) -> None:
    """A byte order mark, merged keys that override, an alias, and numbers as people write them."""
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMOKE.replace("seeds: [0]", "seeds: [2147483647]").encode())
    assert load_study(path).seeds == [2**31 - 1]
    path.write_text(SMOKE.replace("star_acc_lazy: *adastar", "star_acc_lazy: {<<: *adastar, chunk: 7}"))
    assert load_study(path).hyperparameters["star_acc_lazy"]["chunk"] == 7
    path.write_text(SMOKE.replace("budgets: [0.04e12, 0.08e12]", "budgets: [3e23, 1e27]"))
    assert load_study(path).budgets == [int(3e23), int(1e27)]


def test_a_method_whose_file_has_an_impossible_name(tmp_path: Path) -> None:
    (tmp_path / "MyMethod.py").write_text("")
    study = load_study(ROOT / "benchmarks" / "studies" / "smoke.yaml")
    with pytest.raises(UserError, match=r"MyMethod\.py: a method is named by small letters, .*; rename it"):
        method_ids(study, tmp_path)


# --- the sizes of a model that the suite makes ------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "`model_type` is None; set it to that of a causal language model of transformers"),
        ({"model_type": "clip"}, "`model_type` is 'clip'; set it to that of a causal language model"),
        ({"model_type": "mamba"}, "the FLOPs of mamba cannot be counted exactly: torch counts "),
        ({"hiden_size": 8}, "unknown key `hiden_size`; llama knows architectures, "),
        ({"auto_map": {"AutoModel": "a.B"}}, "unknown key `auto_map`"),
        ({"hidden_act": "nosuch"}, "no llama model can be built of it (KeyError"),
        ({"hidden_act": 5}, "no llama model can be built of it ("),
        (
            {"num_key_value_heads": 3},
            "num_key_value_heads is 3, which does not divide num_attention_heads, 32",
        ),
        ({"hidden_size": 96, "num_attention_heads": 32}, "the size of a head is 3, where rotary"),
        ({"hidden_size": 2**16, "num_hidden_layers": 9}, "parameters are too many; ask for at most 20,"),
    ],
)
def test_a_config_of_which_no_model_can_be_made(config: dict[str, Any], complaint: str) -> None:
    from repro.models import config_of

    with pytest.raises(UserError) as caught:
        config_of({"model_type": "llama", **config} if config.keys() - {"model_type"} else config)
    sentence = str(caught.value)
    assert sentence.startswith("base_model.config: ") and complaint in sentence and "\n" not in sentence


# --- by the command, and by Snakemake ---------------------------------------------------------------


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["repro", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["train", "--method", "star", "--seed", "9"],
            "has no seed 9; name one of its seeds (0) with --seed",
        ),
        (
            ["evaluate", "--method", "star", "--seed", "9"],
            "has no seed 9; name one of its seeds (0) with --seed",
        ),
        (["train", "--method", "nobody"], "does not run the method `nobody`; it runs star"),
        (["evaluate", "--method", "nobody"], "does not run the method `nobody`; it runs star"),
    ],
)
def test_a_run_that_the_study_does_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    study = str(ROOT / "benchmarks" / "studies" / "gsm8k-random.yaml")
    assert run_command(monkeypatch, arguments[0], study, *arguments[1:]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"repro: {study} {sentence}") and said.count("\n") == 1


ODD = 'it\'s {odd} "$HOME" study.yaml'


def test_snakemake_takes_a_study_of_any_name(tmp_path: Path) -> None:
    """Its name reaches the commands as it is."""
    study = tmp_path / ODD
    study.write_text(SMOKE.replace("name: smoke", "name: odd"))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    settings = ["--config", f"study={study}", "--cores", "1", "--", "work/odd/problems/train.jsonl"]
    made = subprocess.run([*command, *settings], capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stdout + made.stderr
    assert len((tmp_path / "work/odd/problems/train.jsonl").read_text().splitlines()) == 200


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["reproduce", "tables"])
def test_make_takes_a_study_of_any_name(tmp_path: Path, target: str) -> None:
    snakemake = tmp_path / "bin" / "snakemake"
    snakemake.parent.mkdir()
    snakemake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    snakemake.chmod(0o755)
    command = ["make", "--silent", "--directory", str(ROOT), target, f"VENV={tmp_path}", "INSTALLED="]
    for given in ([f"STUDY={ODD}"], []):
        environment = {**os.environ, "STUDY": ODD}
        made = subprocess.run([*command, *given], capture_output=True, text=True, env=environment)
        assert made.stdout.splitlines()[:2] == ["--config", f"study={ODD}"]
