"""Do the tests see? Hand-made mutants of the code, each of which the tests named beside it must kill.

``make mutants`` (or ``python tests/mutants.py [word in a file's name ...]``) copies the tree to a temporary
folder, checks that the named tests pass there, then puts in one mutant after the other. A mutant on which
they still pass has *survived*: something the code does goes unseen. Outcomes are kept in work/mutants.jsonl
for as long as code and tests stay as they are, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from repro import files

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("repro", "baselines", "benchmarks", "docs", "tests", "pyproject.toml")
PATIENCE = 120.0  # seconds for the tests of one mutant; beyond that it hangs, which is seen too


@dataclass(frozen=True)
class Mutant:
    file: str
    text: str  # in the file exactly once
    instead: str
    tests: tuple[str, ...]  # what pytest is given: the fewest that should kill it


def golden(name: str) -> tuple[str]:
    """The test of a method's transcript."""
    return (f"tests/test_golden.py::test_calls_are_those_on_record[{name}]",)


def baseline(name: str, text: str, instead: str, *tests: str) -> Mutant:
    """Of a method; its transcript is to change, where no test of test_baselines.py is named."""
    named = tuple(test if "/" in test else f"tests/test_baselines.py::{test}" for test in tests)
    return Mutant(f"baselines/{name}.py", text, instead, named or golden(name))


def seen_by(file: str, tests: str, changes: dict[str, str]) -> list[Mutant]:
    """Mutants of one file, text -> what stands there instead, that the same tests should kill."""
    return [Mutant(file, text, instead, tuple(tests.split())) for text, instead in changes.items()]


BASELINES = [
    baseline("star", 'start="base"', 'start="current"'),
    baseline("star", "temperature=self.temperature, top_p=self.top_p)]", "temperature=self.temperature)]"),
    baseline("star", "temperature=self.temperature, top_p=self.top_p, hint", "top_p=self.top_p, hint"),
    baseline("star", "top_p=self.top_p, hint=True", "top_p=self.top_p"),
    baseline("star", "kept += [c for (c,) in hinted if c.correct]", "kept += [c for (c,) in hinted]"),
    baseline("star", "steps=None if last else self.steps(lab.round, len(kept))",
             "steps=self.steps(lab.round, len(kept))"),
    baseline("star", "self.steps(lab.round + 1, len(kept))", "self.steps(lab.round, len(kept))",
             "test_star_asks_whether_the_next_round_fits"),
    baseline("star", "min(round, self.growth_rounds)", "round"),
    baseline("star", "0.2 * (round - 1)", "0.2 * round", "test_star_by_epochs_as_its_code_has_it"),
    baseline("_whole_pool", "top_k=self.top_k,\n", "\n", *golden("star_acc")),
    baseline("_whole_pool", "hint=self.rationalise and attempt > 1,\n", "\n",
             "test_the_whole_pool_is_walked_and_failures_tried_again"),
    baseline("_whole_pool", "if not any(c.correct for c in completions)", "if True",
             "test_the_whole_pool_is_walked_and_failures_tried_again"),
    baseline("_whole_pool", "for c in completions if c.correct]", "for c in completions]",
             *golden("star_acc_full_k")),
    baseline("star_acc", "steps=steps, ", "epochs=1, "),
    baseline("star_acc_full", "epochs=self.epochs", "epochs=2"),
    baseline("star_acc_full_k", "attempts: int = 1", "attempts: int = 2"),
    baseline("star_full", 'start="base"', 'start="current"'),
    baseline("star_full", "steps=None if last else steps", "steps=steps"),
    baseline("star_full", "sampling=lab.spent - spent_before", "sampling=0"),
    baseline("rest_em", "<= self.cap", "< self.cap", "test_rest_em_caps_different_solutions"),
    baseline("rest_em", "list(dict.fromkeys(self.solved(lab)))", "self.solved(lab)"),
    baseline("rest_em", 'lab.rng("cap").permutation(len(different))', "range(len(different))"),
    baseline("sft_answers", "answers_only=True", "answers_only=False", "test_answers_alone_are_trained_on"),
    baseline("rft", "temperature=self.temperature, top_k=self.top_k", "temperature=self.temperature"),
    baseline("rft", 'start="base", ', ""),
    baseline("rft", "if c.correct and equations_hold(c.text)]", "if c.correct]",
             "test_rft_trains_on_what_adds_up"),
    baseline("rft", "for text in distinct(texts)", "for text in texts"),
    baseline("rft", "lab.gold(problems) if self.sft_stage else []", "[]",
             "test_an_sft_stage_comes_first_and_is_charged"),
    baseline("_paths", "spread(text, others) > spread", "spread(text, others) < spread",
             "test_rft_keeps_of_two_texts_with_one_path_the_farther_one"),
    baseline("rft", "min(affordable, k, k_max - k)", "min(affordable, k_max - k)"),
    baseline("rft", "(one_more + training / k)", "one_more", "test_rft_plans_k_from_what_is_left"),
    baseline("adastar", "(self.last[i], self.wins[i], self.rank[i])", "(self.last[i], self.rank[i])",
             "test_adastar_order_is_last_then_win_rate_then_rank"),
    baseline("adastar", "(self.wins[i], self.last[i], self.rank[i])", "(self.wins[i], self.rank[i])",
             "test_adastar_order_is_last_then_win_rate_then_rank"),
    baseline("adastar", "alpha**power + 1e-9", "alpha**power", "test_adastar_pop_count"),
    baseline("adastar", 'if how == "round"', "if False", "test_adastar_pop_count"),
    baseline("adastar", "key=str)", "key=int)", "test_adastar_ties_by_id_are_the_code_s_strings"),
    baseline("adastar", "kept[:wanted]", "kept"),
    baseline("adastar", "top_k=self.top_k,\n", "\n"),
    baseline("adastar", "wins[i] = 1 / attempt", "wins[i] = 1", "test_adastar_second_attempt_counts_half"),
    baseline("adastar", "for i in popped:", "for i in order[:m]:"),
    baseline("adastar", "wins.get(i, 0.0)", "state.wins[i]"),
    baseline("adastar", "+ 2 * chunk_cost", "",
             "test_a_last_round_that_is_planned_trains_on_what_was_sampled"),
    baseline("adastar", "steps=None if last else self.steps(lab.round)", "steps=self.steps(lab.round)",
             "test_a_last_round_that_is_planned_trains_until_the_budget_ends"),
    baseline("adastar", "max(chunk_cost, lab.spent - spent_before)", "lab.spent - spent_before"),
    baseline("star_acc_lazy", '= "random"', '= "last"'),
    baseline("_pairs", "objective=self.objective if", "objective=DPO() if", *golden("hs_star")),
    baseline("_pairs", "epochs=self.epochs", "epochs=2", *golden("hs_star")),
    baseline("_pairs", "chosen = [Example(pair.problem, pair.chosen)",
             "chosen = [Example(pair.problem, pair.rejected)",
             "test_the_chosen_solutions_alone_are_fine_tuned_on"),
    baseline("iterative_dpo", "temperature=self.temperature, top_p=self.top_p", "top_p=self.top_p"),
    baseline("iterative_dpo", "key=lambda item: -item[0]", "key=lambda item: item[0]",
             "test_hs_star_pairs_the_best_rewarded_of_both_sides"),
    baseline("iterative_dpo", "if not state:", "if len(state) < self.problems_per_round:"),
    baseline("iterative_dpo", "self.process_rewards and lab", "lab",
             "test_process_rewards_can_be_left_unused"),
    baseline("hs_star", "pre = lab.sample(problems, n_pre, temperature=self.temperature, top_p=self.top_p)",
             "pre = lab.sample(problems, n_pre, top_p=self.top_p)"),
    baseline("hs_star", "extra, temperature=self.temperature, top_p=self.top_p", "extra, top_p=self.top_p"),
    baseline("hs_star", "extra, temperature=self.temperature, top_p=self.top_p",
             "extra, temperature=self.temperature"),
    baseline("hs_star", "old + new", "new", "test_hs_star_pairs_its_pre_samples_too"),
    baseline("hs_star", "(self.n - n_pre) * len(problems)", "self.n * len(problems)"),
    baseline("hs_star", "random.permutation(problems)[:remainder]", "range(remainder)"),
    baseline("hs_star", "if self.merge_identical:", "if False:",
             "test_hs_star_merges_identical_solutions_as_its_code"),
    baseline("sai_dpo", "search=True", "search=False"),
    baseline("sai_dpo", "state.recent = {*probed, *selected}", "state.recent = {*selected}"),
    baseline("sai_dpo", "for i in candidates if i not in tries", "for i in candidates"),
    baseline("sai_dpo", "hardest_first[int(self.drop_hardest * len(mixed)) :]", "hardest_first"),
    baseline("sai_dpo", "(error + epsilon) / total", "1 / len(errors)"),
    baseline("sai_dpo", 'if self.weighting == "uniform":', "if False:",
             "test_sai_dpo_with_uniform_weights_does_not_favour_failure"),
    baseline("sai_dpo", "temperature=self.temperature, search", "search"),
    baseline("sai_dpo", "return rate(tries), -float(steps), ", "return rate(tries), ",
             "test_sai_dpo_difficulty_order"),
    baseline("iterative_rpo", "self.n, temperature=self.temperature", "self.n"),
    baseline("iterative_rpo", "max(len(won), len(lost))", "min(len(won), len(lost))",
             "test_iterative_rpo_pairs_begin_anew_with_the_shorter_side"),
    baseline("iterative_rpo", 'nll_normalization="sequence"', 'nll_normalization="token"',
             "test_iterative_rpo_pairs_begin_anew_with_the_shorter_side"),
    baseline("b_star", "one[:cap] for one", "one for one"),
    baseline("b_star", "self.n_star or ceil(self.n_wanted / n_queries)", "1",
             "test_b_star_by_hand_without_process_rewards"),
    baseline("b_star", "capped([distinct_above(rated, threshold) for rated in answered]",
             "capped([distinct_above(rated, 0.0) for rated in answered]",
             "test_b_star_by_hand_with_process_rewards"),
    baseline("b_star", "if reward > threshold:", "if reward >= threshold:",
             "test_b_star_keeps_distinct_texts_best_first"),
    baseline("b_star", "min(different / n_star, 1) * ", "", "test_b_star_balance_score"),
    baseline("b_star", "horizon=self.horizon if self.inherit_optimizer else None,\n", "\n"),
    baseline("b_star", "inherit_optimizer=self.inherit_optimizer and lab.round > 1",
             "inherit_optimizer=self.inherit_optimizer"),
    baseline("b_star", "temperature=temperature, search=True", "temperature=temperature"),
    baseline("b_star", "best = max(balance", "best = min(balance"),
    baseline("b_star", "key=lambda item: -item[0]", "key=lambda item: item[0]",
             "test_b_star_keeps_distinct_texts_best_first"),
    baseline("b_star", "2 * aggregate(next(steps), self.aggregation) - 1", "aggregate(next(steps), 'min')"),
    baseline("b_star", "in capped(different, wanted) if one]", "in capped(different, wanted)]",
             "test_b_star_balance_over_what_the_code_keeps"),
    baseline("b_star", "if len(self.temperatures) == len(thresholds) == 1:", "if False:",
             "test_a_grid_of_one_point_is_not_searched"),
    baseline("online_rft", "process_rewards: bool = False", "process_rewards: bool = True",
             "test_a_grid_of_one_point_is_not_searched"),
    baseline("iterative_rft", "inherit_optimizer: bool = False", "inherit_optimizer: bool = True"),
    baseline("grpo", "rewards.std(ddof=1) + 1e-4", "1.0", "test_grpo_advantages"),
    baseline("grpo", "rewards - rewards.mean()", "rewards"),
    baseline("grpo", "inherit_optimizer=True,\n", "\n"),
    baseline("grpo", "objective=self.objective,\n", "\n"),
    baseline("grpo", "ceil(len(data) / self.updates)", "len(data)", "test_updates_share_a_rounds_samples"),
    baseline("raft", "for c in group if c.correct]", "for c in group]"),
    baseline("reinforce_rej", "else -1.0", "else 0.0"),
    baseline("reinforce_rej", "len({c.correct for c in group}) == 1", "not any(c.correct for c in group)"),
    baseline("greso", "if 0 < rate < 1 else []", "if rate > 0 else []"),
    baseline("greso", "max(before, 0) + 1", "1",
             "test_greso_counts_how_often_in_a_row"),
    baseline("greso", "state.p_easy if s > 0 else state.p_hard", "state.p_easy",
             "test_greso_skips_by_streak_and_resamples_until_enough_are_useful"),
    baseline("greso", "** abs(s), 0.01)", "** abs(s), 0.0)",
             "test_greso_skips_by_streak_and_resamples_until_enough_are_useful"),
    baseline("greso", "hard / sampled >= self.target * 2 / 3", "hard / sampled >= self.target / 3",
             "test_greso_moves_its_probabilities_by_the_wanted_shares"),
    baseline("greso", "-self.adapt if too_many else self.adapt", "self.adapt",
             "test_greso_moves_its_probabilities_by_the_wanted_shares"),
    baseline("greso", "if state.passes > 1:", "if True:",
             "test_greso_skips_by_streak_and_resamples_until_enough_are_useful"),
    baseline("dart", 'start="base", ', ""),
    baseline("dart", "k * fail / most", "k * fail", "test_dart_targets_are_in_proportion_to_fail_rates"),
    baseline("dart", "max(1, ceil(", "max(0, ceil(", "test_dart_targets_are_in_proportion_to_fail_rates"),
    baseline("dart", "and tried[i] < self.most_tries", ""),
    baseline("dart", "(len(data) + len(lacking)) / self.batch_size", "0",
             "test_dart_takes_the_number_that_its_budget_pays_for"),
    baseline("dart", "list(texts)[:n]", "list(texts)"),
    baseline("control_unverified", "for (c,) in tries]", "for (c,) in tries if c.correct]"),
    baseline("control_unverified", "top_p=self.top_p, ", ""),
    baseline("control_continued", "inherit_optimizer=True,\n", "\n"),
    baseline("control_gold", "optimizer=self.optimizer)", "optimizer=self.optimizer, epochs=1)"),
]  # fmt: skip

# repro/lab.py, run.py, journal.py: what is charged, cut, seeded and resumed.
# fmt: off
LAB = [
    *seen_by("repro/lab.py", "tests/test_lab_trainings.py", {
        'generator(self._name, "batches", self._calls)': 'generator(self._name, "batches")',
        "horizon or before + (steps or len(plan))": "horizon or (steps or len(plan))",
        "self.visits.update(problems)":
            "self.visits.update(datum.problem.id for datum in data)",
        'stream_seed(self._name, "train", self._calls)': 'stream_seed(self._name, "train")',
    }),
    *seen_by("repro/lab.py", "tests/test_lab.py", {
        "cost > self._budgets[len(self.cuts)]:": "cost >= self._budgets[len(self.cuts)]:",
        "self._cut(model_after(done))": "self._cut(model_after(done + 1))",
        "stream_seed(self._name, \"sample\", self._calls, problem.id, k)":
            "stream_seed(self._name, \"sample\", problem.id, k)",
        "asked[problem.id] += count": "pass",
        "prompts = self._set.hinted if hint else self._set.few_shot": "prompts = self._set.few_shot",
        "account = Account.SEARCH if search else Account.SAMPLE": "account = Account.SAMPLE",
        "SamplingParams(temperature, top_p, top_k,": "SamplingParams(temperature, 1.0, top_k,",
        "0 if first and i == 0 else self._prefix(hint)": "self._prefix(hint)",
        "def tallies(value: Any, first: bool = not drawn)": "def tallies(value: Any, first: bool = True)",
        "max((self._tokens(request.prompt) for _, request in wanted), default=0)": "1_000",
        "min(same, min(map(len, rows)) - 1)": "same",
        "logits=0, window=self": "logits=1, window=self",
        "Entry(Account.RULES,": "Entry(Account.REWARD,",
        "if rows[i] not in known}": "}",
        "* objective.references\n            left": "\n            left",
        "known |= new.keys()": "pass",
        "batch_tally([tallies[i] for i in batch])": "batch_tally([tallies[batch[0]]] * len(batch))",
        "horizon or before + (steps or len(plan))": "horizon or before + len(plan)",
        "stream_seed(self._name, \"train\", self._calls),": "0,",
        "self.visits.update(problems)": "pass",
        "self._base if start == \"base\" else self._model": "self._model",
        "self._trained if inherit_optimizer else None": "None",
        "[[call.rows[i] for i in batch] for batch in call.plan[:steps]],":
            "[[call.rows[i] for i in batch] for batch in call.plan],",
        "call.objective,\n                    call.optimizer,": "SFT(),\n                    call.optimizer,",
        "enough=lambda value: value[\"steps\"] >= len(plan)": "enough=lambda value: True",
        "price=lambda _, first, last: _between(cost_after, first, last)": "price=lambda _, first, last: 0",
        "saved=lambda: int(state.name) if (state := newest_state(self._states)) else 0": "saved=lambda: 0",
        "keep_state=truncated and self._grows": "keep_state=False",
        "weights.add(self._open.source)": "pass",
        "whole.add(self._open.inherit)": "pass",
        "files.prune(model, _is_weights)": "pass",
        "if not isinstance(data[0], objective.data):": "if False:",
        "if not self._plans:": "if False:",
        "return not self._plans or cost <= self.remaining": "return cost <= self._budgets[-1] - self._spent",
        "horizon=call.horizon,": "",
        "seed=call.seed,": "",
        "if isinstance(error, UserError | OSError) or":
            "if isinstance(error, UserError | OSError | RuntimeError) or",
    }),
    Mutant("repro/lab.py", "None if model == self._base else self._signature(model)", "None",
           ("tests/test_run.py::test_a_checkpoint_in_anothers_place_is_not_taken_for_it",)),
    *seen_by("repro/journal.py", "tests/test_journal.py", {
        "if entry.pop(\"check\") != digest(entry):": "if not entry.pop(\"check\"):",
        "if entry[\"call\"] != call:": "if False:",
        "if earlier and enough(earlier[\"value\"]):": "if earlier:",
        "if left[\"position\"] != self.position:": "if False:",
        "return [*before, *(": "return [*(",
        "self.machine += earlier[\"machine\"]": "pass",
        "[*(earlier[\"machine\"] if earlier else []), {": "[{",
    }),
    *seen_by("repro/run.py", "tests/test_run.py", {
        "[[budget] for budget in study.budgets] if": "[[study.budgets[-1]]] if",
        "method.reads_gold, method.uses_corpus, method.plans,": "method.reads_gold, method.uses_corpus,",
        "budgets, _as_begun(parts, folder),": "budgets, parts,",
        "lab.ledger[first : cut.entries]": "lab.ledger[: cut.entries]",
        "if not _own_fault(error, method):": "if False:",
        "if isinstance(error, Misuse):": "if False:",
        "except (UserError, OSError, MemoryError):\n        raise\n    except (Exception, SystemExit)":
            "except (Exception, SystemExit)",
        "\"base\": base,": "\"base\": key,",
        "row(\"wasted\", call[\"device\"])": "row(\"train\", call[\"device\"])",
    }),
    *seen_by("repro/identity.py", "tests/test_run.py", {
        "problems.digest, base, rewards(study))": "problems.digest, rewards(study))",
        "settings(study, method, name), seed,": "settings(study, method, name),",
        "\"libraries\": libraries(study.sampling.engine),": "",
        "\"hyperparameters\": method.model_dump(mode=\"json\"),": "",
        "f\"-{budget}\" * method.plans": "\"\"",
        "del node.body[0]": "pass",
        "exclude={\"path\", \"batch_size\", \"tensor_parallel\"}": "exclude={\"path\"}",
        "spec.path and _contents(spec.path)": "None",
    }),
    *seen_by("repro/cleaning.py", "tests/test_run.py", {
        "if path in kept:": "if False:",
        "with files.lease(leased):": "if True:",
    }),
]

# repro/evaluation.py, collect.py: what is recorded of it.
EVALUATION = " ".join(
    f"tests/test_evaluation.py::test_{name}"
    for name in (
        "only_what_the_run_sealed_is_evaluated", "a_checkpoint_outside_of_work_is_refused",
        "a_run_is_evaluated_on_every_benchmark", "how_work_is_split_up_evaluates_nothing_again",
        "rows_that_do_not_belong_to_the_study_are_not_collected",
        "rows_that_were_evaluated_differently_are_not_collected",
    )
)
KEPT = " ".join(
    f"tests/test_evaluation.py::test_{name}"
    for name in (
        "a_share_of_the_problems_keeps_its_texts", "a_text_that_no_file_can_hold_is_kept_all_the_same",
        "parts_of_a_version_that_kept_no_texts_are_made_again",
        "questions_are_recorded_where_the_study_says_so",
        "the_ladder_s_questions_are_recorded_in_any_case",
        "records_say_what_ran_and_from_which_settings", "thoughts_state_no_answer",
    )
)
RECORDING = [
    *seen_by("repro/evaluation.py", EVALUATION, {
        "or files.fingerprint(model) != row[\"fingerprint\"]:": "or False:",
        "if layout.work.resolve() not in model.parents:": "if False:",
        "tally += Tally.from_json(found[\"tally\"])": "tally = Tally.from_json(found[\"tally\"])",
    }),
    *seen_by("repro/identity.py", EVALUATION, {
        "study.sampling.numbers(), stops(study.prompt, benchmark)":
            "study.sampling.model_dump(), stops(study.prompt, benchmark)",
        "layout.test(name), TASKS / \"suite.py\"": "TASKS / \"suite.py\"",
    }),
    *seen_by("repro/collect.py", EVALUATION, {
        "if set(evaluation[\"parts\"]) != parts:": "if False:",
        "if manifest[\"key\"] != key:": "if False:",
        "if manifest[\"asked\"] != study.budgets:": "if False:",
        "if evaluation[\"settings\"] != asked(study):": "if False:",
        "evaluation[\"key\"] != manifest[\"key\"] or evaluated != checkpoints":
            "evaluation[\"key\"] != manifest[\"key\"]",
        "or files.sha256(samples) != evaluation[\"samples\"]": "",
        "if facts[fact] not in (None, evaluation[fact]):": "if False:",
    }),
    *seen_by("repro/collect.py", KEPT, {
        "< share * 16**16": "<= 16**16",
        "int(files.digest(benchmark, problem), 16)": "0",
        "or name == \"ladder\"": "",
        "told = study.evaluation.questions or": "told = True or",
        "sorted(texts.items())": "list(texts.items())",
        "for job, process in jobs\n        if process": "for job, process in jobs\n        if True",
        "Path(value).name if Path(value).is_absolute() else str(value)": "str(value)",
    }),
    *seen_by("repro/record_files.py", KEPT, {
        "processes.setdefault(files.digest(shared)": "processes.setdefault(files.digest(shared, job)",
    }),
    *seen_by("repro/identity.py", KEPT, {"PART, NUMBERS, VERIFIER": "NUMBERS, VERIFIER"}),
    *seen_by("repro/evaluation.py", KEPT, {
        "LONE.sub(\"\\N{REPLACEMENT CHARACTER}\", text)": "text",
        "closed(sample.text) if thinking else sample.text": "sample.text",
    }),
    *seen_by("repro/provenance.py", "tests/test_provenance.py", {
        ", \":(exclude)results\"": "",
        "if not (ROOT / \".git\").exists():": "if False:",
        "(OSError, subprocess.SubprocessError)": "subprocess.SubprocessError",
        "identity.libraries(engine) |": "",
    }),
    *seen_by("repro/reporting/recount.py", "tests/test_records.py", {
        "if tier != benchmark.tiers[at]:": "if False:",
        "if name not in sampled:": "if False:",
        "elif other:": "elif False:",
    }),
    *seen_by("repro/reporting/reading.py", "tests/test_records.py", {
        "if (benchmark, problem) in found:": "if False:",
        "if (question is None) != (answer is None):": "if False:",
        "if table[name].null_count and name not in blank:": "if False:",
        "if not pa.types.is_string(schema.field(name).type):": "if False:",
    }),
    *seen_by("repro/reporting/results.py", "tests/test_records.py", {
        "(job.method not in methods or job.seed not in seeds)": "False",
        "if question and answer": "",
        "if len({(job.kind, job.method, job.seed) for job in jobs}) < len(jobs):": "if False:",
    }),
    *seen_by("repro/training/trl.py", "tests/test_training.py", {
        "checkpoints.load_trained(self.model, self.resumed / checkpoints.STATE_WEIGHTS)": "pass",
        "if column not in row]": "]",
        "due = output.keep_state if last else": "due = False if last else",
        "done = plan.before + plan.resumed": "done = plan.before",
    }),
]

# What a policy gradient minimises, and what is charged for it.
HAND = "tests/test_training.py::test_a_batch_worked_by_hand"
OBJECTIVES = [
    *seen_by("repro/lab.py", "tests/test_lab.py", {
        "* references] for tally in tallies]": "] for tally in tallies]",
        "replace(row, weight=datum.weight)": "row",
        "if isinstance(objective, SFT) and weights != {1}:": "if False:",
        "return [row.prompt, row.responses, row.weight] if row.weight != 1 else [":
            "return [row.prompt, row.responses] if row.weight != 1 else [",
    }),
    *seen_by("repro/objectives.py", "tests/test_lab.py", {
        "return self.clips + (self.kl > 0)": "return self.clips or self.kl > 0",
    }),
    *seen_by("repro/training/trl.py", HAND, {
        '"sequence": "grpo", "token": "bnpo"': '"sequence": "bnpo", "token": "bnpo"',
        "values[: len(row[\"completion_ids\"])]": "values[:1] * len(row[\"completion_ids\"])",
        "self.beta = self.objective.kl": "self.beta = 0.0",
        '"epsilon": low,': '"epsilon": high,',
        '"max_completion_length": objective.max_tokens,': "",
    }),
    *seen_by("repro/training/trl.py", "tests/test_training.py::test_a_policy_gradient_equals_a_bare_loop", {
        '"use_bias_correction_kl": False,': '"use_bias_correction_kl": True,',
        'return loss * (tokens if self.objective.normalization == "token" else rows)': "return loss * rows",
    }),
    *seen_by("repro/training/trl.py", "tests/test_training.py::test_a_policy_gradient_equals_trls", {
        "checkpoints.load_model(self.output.reference)": "checkpoints.load_model(self.output.base)",
    }),
    Mutant("repro/training/trl.py", "objective.nll_weight * rows * (", "objective.nll_weight * (",
           ("tests/test_training.py::test_how_a_step_is_computed_does_not_change_the_result",)),
    *seen_by("repro/training/__init__.py", "tests/test_training.py::test_schedules", {
        "min(ceil(optimizer.warmup_ratio * horizon), horizon - 1)": "ceil(optimizer.warmup_ratio * horizon)",
    }),
]
# fmt: on

FLOPS = [
    *seen_by("repro/flops.py", "tests/test_batches.py::test_a_batch_is_padded_to_its_longest_row", {
        "longest = max(row.padded": "longest = min(row.padded",
        "padded=longest * total.sequences": "padded=total.padded",
    }),
    *seen_by("repro/flops.py", "tests/test_flops.py", {
        "TRAINING_PASSES = 3": "TRAINING_PASSES = 2",
        "head = 2 * shape": "head = shape",
        "attention = 2 * (shape": "attention = (shape",
        "+ shape.windowed * tally.windowed": "",
        "if shape.window and tally.pairs": "if False and tally.pairs",
        "windowed=sum(_pairs(total, window)": "windowed=sum(_pairs(total)",
        "windowed=pairs(window)": "windowed=pairs(None)",
        "max(0, tokens - window)": "max(0, tokens - window - 1)",
        "(shape.parameters - shape.idle)": "shape.parameters",
        "logits=1 + decoded": "logits=decoded",
        "tokens=prompt - shared + decoded": "tokens=prompt + decoded",
        "pairs=sum(_pairs(total) for": "pairs=sum(total for",
        "read - _pairs(shared, window) +": "read +",
        "passes * attention + adapters": "(passes - 1) * attention + adapters",
        "passes * 2 * (shape": "2 * (shape",
        "padded=len(totals) * max(totals, default=0)": "padded=sum(totals)",
    }),
    *seen_by("repro/shapes/counting.py", "tests/test_shapes.py", {
        "weight[0].numel() * sent[0].shape[-1]": "weight.numel()",
        "found.idle[name] += weight.numel() - used": "pass",
        "found.experts = True": "pass",
        "found.sides[name] += sum(module.weight.shape)": "found.sides[name] += module.weight.shape[0]",
        "heads * (size + depth), queries": "heads * 2 * size, queries",
        "if due[name] != found.forward[name]:": "if False:",
        "if call.seen != tuple(": "if False and call.seen != tuple(",
        "if len(found.attention) < layers:": "if False:",
    }),
    *seen_by("repro/shapes/__init__.py", "tests/test_shapes.py::test_well_known_models_need_no_torch "
             "tests/test_shapes.py::test_other_sizes_than_a_well_known_models_are_counted", {
        "if sizes.items() <= config.items():": "if sizes.keys() <= config.keys():",
        "return counted(config, where)": "return found",
        're.sub("-(Instruct|Base|it|pt)$", "", model.split("/")[-1])': 'model.split("/")[-1]',
        'model.split("/")[-1]': "model",
    }),
    *seen_by("repro/shapes/__init__.py", "tests/test_shapes.py::test_a_base_model_has_its_shape_beside_it", {
        'if "shape" in origin:': "if False:",
    }),
    *seen_by("repro/shapes/__init__.py", "tests/test_shapes.py::test_configs_that_are_none", {
        'raise UserError(f"{where}: {error}") from None': "raise",
    }),
    *seen_by("repro/planning/calculator.py", "tests/test_calculator.py", {
        "trains.references if references is None": "0 if references is None",
        "if sampled % samples:": "if False:",
        "if min(prompt, completion) < 1:": "if False:",
        "round(groups * prompt)": "groups * int(prompt)",
        "round(sampled * completion)": "sampled * int(completion)",
        "generated // samples + (i < generated % samples)": "generated // samples",
        "sample_tally(asked, each, window=shape.window)": "sample_tally(asked, each)",
        "drawn += _times(": "drawn = _times(",
        "(2 if trains.data is Pair else 1)": "1",
        "sequence_tally([(asked, generated)], window=shape.window)": "sequence_tally([(asked, generated)])",
        "shape.with_lora(lora)": "shape",
        "prompts // number + (first < more[0])": "prompts // number",
        "completions // number + (first < more[1])": "completions // number",
        "number * count for name": "count for name",
        "c.tally.prompt_tokens + c.tally.completion_tokens": "c.tally.tokens",
        'f", window of {shape.window:,} tokens" if shape.window else ""': '""',
        "if shape.idle else": "if False else",
        "decoder(files.read_json(path": "named(str(path)) or decoder(files.read_json(path",
    }),
]  # fmt: skip

STATISTICS = [
    *seen_by("repro/reporting/spread.py", "tests/test_statistics.py", {
        "/ (1 + (budgets - 1) * correlation**2)": "/ 1",
        "(likely >= level) if few": "(likely >= np.inf) if few",
        "np.maximum(variance, noise) if few": "variance if few",
        "np.where(variance > 0, variance, noise)": "variance",
        "1 / (1 / df + of_profile)": "df",
        "rho = np.maximum(\n": "rho = np.minimum(\n",
        "profile = profile * _update(found, noise + amount * profile, amount, -2)": "pass",
        "found * inverse * inverse, inverse)": "found * inverse, 1 + 0 * inverse)",
        "(prior * scale + df * level) / (prior + df)": "level",
        "null >= _unexplained(variance, noise)": "null < _unexplained(variance, noise)",
    }),
    *seen_by("repro/reporting/statistics.py", "tests/test_statistics.py", {
        "y[..., tier_of == t].mean(-1)": "y[..., tier_of == t].sum(-1)",
        "1 / (len(sizes) * sizes[at])": "1 / (sizes[at] * sizes[at])",
        "len(tiers) * np.sqrt(max(1, n - 1) * n)": "len(tiers) * n",
        "size=DRAWS) - 1": "size=DRAWS)",
        "covariance - noise": "covariance",
        "seen - np.sqrt(shrink) * null": "seen - null",
        "steps = np.rint(difference * share / step)": "steps = np.rint(difference / share.size / step)",
        "np.abs(null) >= seen": "np.abs(null) > seen",
        "variance**2 / df": "variance**2",
        "detection(gain, variance, df, alpha) - POWER": "detection(gain, variance, df) - POWER",
        "worst = max(worst, min(1.0, (len(p) - step) * p[i]))": "worst = min(1.0, (len(p) - step) * p[i])",
        "(len(p) - step) * p[i]": "len(p) * p[i]",
        "1 + better.sum(0)": "1 + better.sum(1)",
        "low if mean > 0 else 0.0": "low",
        "/ 2 / (problems * (problems + 1))": "/ (problems * (problems + 1))",
    }),
    *seen_by("repro/reporting/curves.py", "tests/test_curves.py", {
        "np.where(ever, np.where(at == 0, 0.0, found), budgets[-1])": "np.where(ever, found, budgets[-1])",
        "np.where(at == 0, budgets[0], found), np.inf)": "np.where(at == 0, budgets[0], found), budgets[-1])",
        "(budgets[at] / budgets[before]) ** part": "(1 + (budgets[at] / budgets[before] - 1) * part)",
        "np.minimum(a[..., -1], b[..., -1])": "np.maximum(a[..., -1], b[..., -1])",
        "+ 1) / 2  # [seed of a": "+ 2) / 3  # [seed of a",
        "rng.multinomial(seeds - 1,": "rng.multinomial(seeds + 1,",
        "> above[:, None] + TOLERANCE": ">= above[:, None] - TOLERANCE",
        'method="lower"': 'method="higher"',
        "inside = np.all(": "inside = np.any(",
    }),
    *seen_by("repro/reporting/comparisons.py", "tests/test_comparisons.py", {
        "if percentile_interval(gain, gain)[0] <= 0:": "if percentile_interval(gain, gain)[1] <= 0:",
        "common_score(ours[1], theirs[1]) - base[1]": "ours[1][:, -1] - base[1]",
        "shares(strata) * (1 + bootstrap(strata))": "(1 + bootstrap(strata)) / len(strata)",
        "each.std(ddof=1)": "each.std()",
        "float(min(ranked, default=0.0))": "float(max(ranked, default=0.0))",
        "and (np.diff(flops_of_row) > 0).all():": ":",
        "> (1 - LEVEL) / 2:": "> 1:",
    }),
    *seen_by("repro/reporting/analysis.py", "tests/test_statistics.py", {
        "adjusted = holm([d.p for d in found if isinstance(d, Difference)])":
            "adjusted = [d.p for d in found if isinstance(d, Difference)]",
        "found.spread.variance[at] / seeds, found": "found.spread.variance[at], found",
        "for method in methods if self._trained(method)]": "for method in methods]",
        "found.each[self._at(method, budget)] - found.each[self._at(reference, budget)]":
            "found.each[self._at(method, budget)] - np.sort(found.each[self._at(reference, budget)])",
        "alpha = ALPHA / len(pairs)": "alpha = ALPHA",
        "row.role in (Role.METHOD, Role.ABLATION)": "row.role in (Role.METHOD,)",
    }),
    *seen_by("repro/reporting/analysis.py", "tests/test_coverage.py", {
        "max(0.0, 1 - sum(found.samples[at] for at in trained) / variance)": "0.0",
        "draws[:, i] += scale": "draws[:, i] += 0 * scale",
        "noise[i, :, i] =": "noise[i, :, i] = 0 *",
        "self._drawn @ kept.T": "0",
    }),
    *seen_by("repro/planning/power.py", "tests/test_statistics.py", {
        "ALPHA / comparisons": "ALPHA",
        "problems - 1)": "1e9)",
        "2 * pooled_df(seeds, budgets) if seeds > 1": "1e9 if seeds > 1",
    }),
]  # fmt: skip

TUNING = [
    *seen_by("repro/planning/tuning.py", "tests/test_tuning.py", {
        "np.sqrt(2 * np.nanmean(scores.var(1, ddof=1)) / seeds)": "0.0",
        "means[best] - means[0] > error": "means[best] > means[0]",
        "scores.var(1, ddof=1)": "scores.var(1)",
        "np.nanargmax(means)": "np.argmax(means)",
        "for key in (*spec.hyperparameters, *point)": "for key in point",
        '"budgets": [study.budgets[-1]]': '"budgets": study.budgets',
        '"split": "validation"': '"split": "test"',
        "number == best)": "number == 0)",
        "merged(shared | spec.hyperparameters, point)": "shared | spec.hyperparameters | point",
    }),
    *seen_by("repro/tuned.py", "tests/test_tuning.py", {
        "if found != study.tuned.digest.lower():": "if False:",
        "trial.method == row and trial.chosen": "trial.method == row",
    }),
    *seen_by("repro/discovery.py", "tests/test_tuning.py", {
        "values = merged(shared | own, tuned_to)": "values = shared | own",
        "merged(shared | own, tuned_to)": "(shared | own | tuned_to)",
    }),
    *seen_by("repro/problems/__init__.py", "tests/test_tuning.py", {
        "dict.fromkeys(study.evaluation.benchmarks, drawn.validation)":
            "dict.fromkeys(study.evaluation.benchmarks, drawn.train)",
    }),
    *seen_by("repro/reporting/costs.py", "tests/test_tables.py", {
        "sum(known) / len(known)": "max(known)",
        "next(trial for trial in tried if trial.chosen)": "tried[0]",
    }),
]  # fmt: skip

REPRODUCTION = [
    Mutant("repro/numerics.py", "if lack := lacking():", "if lack := '':",
           ("tests/test_numerics.py::test_a_processor_without_avx2_is_refused_in_a_sentence",)),
    Mutant("repro/numerics.py", '{"numpy", "torch"} & sys.modules.keys()', "False",
           ("tests/test_numerics.py::test_portable_numerics_that_were_not_settled_are_refused",)),
    Mutant("repro/numerics.py", "if not _is_settled() or capability()", "if False and capability()",
           ("tests/test_numerics.py::test_portable_numerics_that_were_not_settled_are_refused",)),
    Mutant("repro/numerics.py", "os.environ.update(PORTABLE)", "os.environ.update(THREADS)",
           ("tests/test_numerics.py::test_what_is_settled_before_torch_holds_whatever_the_environment_says",)),
    *seen_by("repro/reporting/replication.py", "tests/test_replication.py", {
        "if new[name] != old[name]:": "if False:",
        "adjusted[at] < ALPHA": "adjusted[at] < 0",
        "(same.problems, same.k, same.macro) != keys": "(same.k, same.macro) != keys[1:]",
        ".astype(str).sort_values(list(SAMPLE_KEY))": ".astype(str)",
        'if runs else "the seeds are others"': 'if runs else ""',
    }),
    *seen_by("repro/reporting/analysis.py", "tests/test_replication.py", {
        "[*errors[0].spreads, *errors[1].spreads]": "[]",
    }),
]  # fmt: skip

VERIFIER = [
    *seen_by("repro/verify/answers.py", "tests/test_verify_answers.py", {
        'text = text.rpartition(_THOUGHTS_END)[2]': "text = text.strip()",
        "answer = lines[-1] if lines": "answer = lines[0] if lines",
        '_BOX_WITHIN.sub("", text[start:end])': "text[start:end]",
        "start, end = opened, match.start()": "start, end = max(start, opened), match.start()",
        "return content if _ALL_SAID.match(sentence) else content + sentence": "return content",
        'and magnitude != "0" else': "else",
        'decimals = (match["decimals"] or "").rstrip("0")': 'decimals = match["decimals"] or ""',
        '.lstrip("0") or "0"': '.lstrip("0")',
        "if bottom == 1 or not digits[2] or": "if not digits[2] or",
        "ROUNDED = 4 ": "ROUNDED = 2 ",
        "x / 100 if": "x if",
    }),
    *seen_by("repro/verify/answers.py", "tests/test_verify_shapes.py", {
        "and is_unit(unit, bool(match)) else": "else",
        "and _is_undone(sides[-1])": "and False",
        "for mark in (_BASE, _PRIME, _NOT)": "for mark in (_PRIME, _NOT)",
        "in (_BASE, _PRIME, _NOT)": "in (_BASE, _PRIME)",
    }),
    *seen_by("repro/verify/answers.py", "tests/test_verify_limits.py", {
        'return Fraction(text.replace(",", ""))': 'return Fraction(float(text.replace(",", "")))',
    }),
    *seen_by("repro/verify/worker.py", "tests/test_verify_limits.py", {
        'verdict = "timeout"': 'verdict = "wrong"',
        "resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))": "pass",
    }),
    *seen_by("repro/verify/worker.py", "tests/test_verify.py", {
        "sympy_parser.parse_expr = number_only": "pass",
    }),
]  # fmt: skip

MONITORS = [
    *seen_by("repro/monitors.py", "tests/test_monitors.py", {
        "self._squares += 2 * self._visits[problem] + 1": "self._squares += 1",
        "group.correct in (0, group.completions)": "group.correct == 0",
        "if group.completions > 1]": "]",
        "if found.values and self.rounds[-1:] != [found]:": "if found.values:",
        "self._said |= {": "self._said = {",
        "and isfinite(float(value))": "",
    }),
    *seen_by("repro/lab.py", "tests/test_monitors.py", {
        "if account is Account.SAMPLE and not hint:": "if account is Account.SAMPLE:",
        "if request.prompt == self._set.prompts[problem.id]:": "if True:",
        " if call.source == policy else {}": "",
        "self._drawn.clear()": "pass",
        "abs(samplers - trainers) / len(response)": "abs(samplers - trainers)",
        ".problem.id, checksum(response)))": ".problem.id, 1))",
        "if not truncated or self._plans:": "if True:",
        "            paid(done)": "            pass",
        "self.monitors.close(self._spent)\n        seen": "seen",
        "if taken := SEEN.keys() & values.keys():": "if taken := ():",
    }),
    *seen_by("repro/run.py", "tests/test_run.py", {
        "lab.monitors.rounds[seen : cut.seen]": "lab.monitors.rounds[: cut.seen]",
    }),
    *seen_by("repro/sampling/transformers.py", "tests/test_sampling.py", {
        "torch.where(stopped[alive], 0.0, log_": "torch.where(stopped[alive], 1.0, log_",
        "- logits.logsumexp(-1)": "",
    }),
    *seen_by("repro/reporting/results.py", "tests/test_records.py", {
        '(line["round"], line["budget"])': '(line["round"], -line["budget"])',
        'signed=("value",)': "",
    }),
    *seen_by("repro/reporting/recount.py", "tests/test_records.py", {"if line[name] > most:": "if False:"}),
]  # fmt: skip

CLAIMS = [
    *seen_by("repro/reporting/claims.py", "tests/test_claims.py", {
        "elif p < ALPHA and all(worst > 0 for worst, _ in ends):": "elif p < ALPHA:",
        "elif p < ALPHA and any(best < 0 for _, best in ends):": "elif p < ALPHA:",
        "all(worst > 0 for worst, _ in ends)": "any(worst > 0 for worst, _ in ends)",
        "any(best < 0 for _, best in ends)": "all(best < 0 for _, best in ends)",
        "    if preliminary:\n": "    if False:\n",
        "return min(1.0, len(effects) * min(behind))": "return min(1.0, min(behind))",
        "else max(effect.p for effect": "else min(effect.p for effect",
        "dict(zip(p, holm(list(p.values())), strict=True))": "p",
        "by = value - (claim.test.metric == RATIO)": "by = value",
        'return by if claim.test.direction == "higher" else -by': "return by",
        "against = min(effects,": "against = max(effects,",
        "for budget in study.budgets if curve else (study.top,):": "for budget in (study.top,):",
        "        if untrained(study, row, study.top):": "        if False:",
        "effect.low <= most and effect.high >= least": "effect.low <= least and effect.high >= most",
        "values.append(rounds[max(rounds)]": "values.append(rounds[min(rounds)]",
        "if percentile_interval(gain, gain)[0] <= 0:": "if False:",
        "2 * (1 + int(tail))": "0 * (1 + int(tail))",
        "if all(row in study.index for row in claim.rows)": "",
        "return 100 if self.unit": "return 1 if self.unit",
    }),
    *seen_by("repro/reporting/published.py", "tests/test_claims.py", {
        "if figure.control and figure.row in study.index": "if figure.row in study.index",
        "theirs = figure.value - against.value": "theirs = against.value - figure.value",
        "alike |= all(same)": "alike |= any(same)",
        'letter for letter in name.casefold() if letter.isalnum()': "letter for letter in name",
    }),
]  # fmt: skip

OWN = "tests/test_benchmarks.py::test_"
SWITCHES = "tests/test_evaluation.py::test_"
WATCHED = "tests/test_forgetting.py::test_"
BOARDS = "tests/test_tables.py::test_"
READERS = "tests/test_problems.py::test_"
BENCHMARKS = [
    *seen_by("repro/identity.py", f"{OWN}a_benchmark_is_told_by_its_own_task_files_alone", {
        'tasks = [TASKS / f"{task(name)}_{mode}.yaml" for mode in MODES]':
            'tasks = [*TASKS.glob(f"{task(name)}_*.yaml")]',
    }),
    *seen_by("repro/identity.py", f"{SWITCHES}thinking_is_part_of_what_runs_and_evaluations_are", {
        '**({"thinking": True} if study.prompt.thinking else {}),': "",
        'thinking = ["thinking"] if study.prompt.thinking else []': "thinking = []",
    }),
    *seen_by("repro/identity.py", f"{SWITCHES}stops_and_lengths_may_differ_by_benchmark", {
        "stops(study.prompt, benchmark)": "stops(study.prompt)",
    }),
    *seen_by("repro/evaluation.py", f"{SWITCHES}stops_and_lengths_may_differ_by_benchmark", {
        "stops(study.prompt, study.evaluation.benchmarks[name])": "stops(study.prompt)",
    }),
    *seen_by("repro/profiles.py", f"{SWITCHES}stops_and_lengths_may_differ_by_benchmark", {
        "own.max_tokens or ": "",
    }),
    *seen_by("repro/evaluation.py", f"{SWITCHES}thoughts_state_no_answer", {
        "[closed(text) for text in texts] if self._thinking else texts": "texts",
    }),
    *seen_by("repro/lab.py", "tests/test_lab.py::test_thoughts_that_were_cut_off_state_no_answer", {
        "texts = [closed(text) for text in texts]": "pass",
    }),
    *seen_by("repro/evaluation.py", f"{OWN}a_file_of_a_study_is_a_benchmark", {
        '"benchmark": benchmark}': "}",
    }),
    *seen_by("repro/forgetting.py", f"{WATCHED}it_asks_greedily_with_the_task_s_own_prompts", {
        "task.set_fewshot_seed(SHOTS)": "pass",
        'task.set_config("repeats", 1)': "pass",
        '"temperature": 0.0, "until": [until] if isinstance(until, str) else until,':
            '"temperature": 0.0, "until": until,',
        "spec.max_tokens or generation": "generation",
    }),
    *seen_by("repro/forgetting.py", f"{WATCHED}scores_are_those_of_lm_eval", {
        "reads = wanted if isinstance(wanted, str) else wanted[0]": "pass",
        'not score.get("weight_by_size", True)': "False",
    }),
    *seen_by("repro/evaluation.py", f"{WATCHED}samples_are_rows_like_those_of_a_benchmark", {
        "limit=spec.limit": "limit=None",
        'if logged["filter"] != asked.filter:': "if False:",
    }),
    *seen_by("repro/identity.py", f"{WATCHED}parts_are_done_once", {
        "{str(path.relative_to(spec.folder)): files.sha256(path) for path in own if spec.folder}": "{}",
    }),
    *seen_by("repro/reporting/results.py", f"{BOARDS}a_hole_in_what_was_asked_is_refused", {
        "due = key in finished": "due = wanted",
    }),
    *seen_by("repro/reporting/tables.py", f"{BOARDS}of_one_benchmark_the_leaderboard_has_the_column", {
        "if study.forgetting and base else None": "if study.forgetting else None",
    }),
    *seen_by("repro/problems/__init__.py", f"{OWN}a_file_of_a_study_is_a_benchmark", {
        '"digest": sources.digest(rows), "pinned": False}': '"digest": sources.digest(rows), "pinned": True}',
    }),
    *seen_by("repro/problems/__init__.py", f"{OWN}a_study_of_the_ladder_may_bring_a_benchmark", {
        '_refuse_repeated(rows["train"], tests)': "pass",
    }),
    *seen_by("repro/collect.py", f"{SWITCHES}records_of_a_benchmark_of_the_study_s_own", {
        'if source and not source["pinned"] else {}': "if source else {}",
    }),
    *seen_by("repro/problems/sources.py", f"{READERS}rows_made_from_gsm8k_as_their_data_sets_have_them", {
        'if answer == "None":': "if False:",
    }),
    *seen_by("repro/problems/sources.py", f"{READERS}rows_of_competitions_as_their_data_sets_have_them", {
        'text.replace("$", "")': "text",
        'row.text("context") + "\\n" if row.values.get("context") else ""': '""',
        '[eE]\\+?(-?': '[e]\\+?(-?',
    }),
    *seen_by("repro/planning/plan.py", f"{OWN}a_file_of_a_study_is_a_benchmark", {
        "total = len(asked) or OWN_ROWS": "total = OWN_ROWS",
    }),
]  # fmt: skip

MERGING = "tests/test_merging.py::test_"
COMPARE = "tests/test_compare.py::test_"
STATUS = "tests/test_status.py::test_"
PUBLISH = "tests/test_publish.py::test_"
SITE = "tests/test_site.py::test_"
# Several machines, two records, a study given away, a study at work.
BETWEEN = [
    *seen_by("repro/reporting/merging.py", f"{MERGING}what_does_not_belong_together_is_refused", {
        "elif value and value != known:": "elif False:",
        "if all(pools) and pools[0] != pools[1]:": "if False:",
        "if theirs.problems != ours.problems or": "if",
    }),
    *seen_by("repro/reporting/merging.py", f"{MERGING}a_run_that_two_have_and_that_differs_is_refused", {
        "if lines[owner].get(run) != lines[part].get(run):": "if False:",
        "if not one.equals(other):": "if False:",
    }),
    *seen_by("repro/reporting/merging.py", f"{MERGING}halves_by_seeds_are_the_whole_byte_for_byte", {
        "return sorted(met) if": "return met if",
    }),
    *seen_by("repro/reporting/compare.py", f"{COMPARE}one_thing_that_differs_is_seen", {
        "same = same and next(differences(ours, theirs, drawn, runs), None) is None": "pass",
        "if first and second and first != second:": "if False:",
    }),
    *seen_by("repro/reporting/bundle.py", f"{PUBLISH}what_was_changed_in_a_bundle_is_named", {
        "if name in there and sha256(bundle / name) != digest": "if False",
        "if name not in listed and name != CRATE": "if False",
        "if (bundle / name).is_symlink()": "if False",
        "or (fresh / name).read_bytes() != (bundle / name).read_bytes()": "",
    }),
    *seen_by("repro/reporting/bundle.py", f"{PUBLISH}wrong_records_and_folders_that_are_taken_are_refused", {
        "    if found.differences:\n": "    if False:\n",
        "if there and _digest(out / RECORDS) != _digest(records):": "if False:",
    }),
    *seen_by("repro/reporting/bundle.py", f"{PUBLISH}a_bundle_is_made_anew_in_its_place", {
        "before.intersection(paths(out)) - {*now}": "before - {*now}",
    }),
    *seen_by("repro/reporting/deposit.py", f"{PUBLISH}what_cannot_be_published_is_refused", {
        "if found and not _checks(found[1]):": "if False:",
        'if " " not in known:': "if True:",
    }),
    *seen_by("repro/reporting/deposit.py", f"{PUBLISH}hostile_titles_stay_texts", {
        "<p>{html.escape(self.description)}</p>": "<p>{self.description}</p>",
    }),
    *seen_by("repro/reporting/checklist.py", f"{PUBLISH}what_is_not_recorded_is_not_claimed", {
        "NO if subject.doubts or lacks else YES": "NO if lacks else YES",
    }),
    *seen_by("repro/reporting/croissant.py", f"{PUBLISH}croissant_describes_every_column", {
        'return float if name == "machine.csv" and column in UNKNOWN else kind': "return kind",
    }),
    *seen_by("repro/reporting/site.py", f"{SITE}the_page_has_every_study_and_every_row", {
        "score_cell(study, row, top, score)": "score_cell(study, row, top, score, (1, 1))",
        "for above in (results, results / CONTRIBUTED):": "for above in (results,):",
    }),
    *seen_by("repro/files.py", f"{STATUS}a_holder_is_seen_until_it_ends_or_dies", {
        "return named if _locked(number, int(process)) else None": "return named",
    }),
    *seen_by("repro/planning/status.py", f"{STATUS}old_and_half_written_manifests_are_none", {
        "(manifest[\"key\"], manifest[\"asked\"]) == (key, budgets)": "manifest[\"key\"] == key",
    }),
    *seen_by("repro/planning/serving.py", f"{STATUS}the_page_is_for_this_machine_alone", {
        "(f\"{LOOPBACK}:{bound}\", f\"localhost:{bound}\")": "(self.headers.get(\"Host\"),)",
    }),
]  # fmt: skip

MUTANTS = [
    *BASELINES, *LAB, *RECORDING, *OBJECTIVES, *FLOPS, *STATISTICS, *TUNING, *REPRODUCTION, *VERIFIER,
    *MONITORS, *CLAIMS, *BENCHMARKS, *BETWEEN,
]  # fmt: skip


# --- running them -----------------------------------------------------------------------------------------


def copy_tree(root: Path, target: Path) -> None:
    """The parts of the project that tests need, without what runs and caches left in them."""
    junk = shutil.ignore_patterns("__pycache__", ".*", "work", "results")
    for part in PARTS:
        if (root / part).is_dir():
            shutil.copytree(root / part, target / part, ignore=junk)
        elif (root / part).exists():
            shutil.copy(root / part, target / part)


def mutated(mutant: Mutant, root: Path) -> str:
    """The file with the mutant in it; raises ``ValueError`` unless its text is there exactly once."""
    text = (root / mutant.file).read_text()
    if text.count(mutant.text) != 1 or mutant.text == mutant.instead:
        raise ValueError(f"{mutant.file} holds {mutant.text!r} {text.count(mutant.text)} times, not once")
    return text.replace(mutant.text, mutant.instead)


def run_tests(root: Path, tests: Sequence[str], patience: float = PATIENCE) -> int | None:
    """pytest's exit status in the tree at ``root``, None if it took longer than ``patience`` seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    quick = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    # Python knows bytecode by its source's length and second: the next mutant may have both.
    fresh = {"PYTHONDONTWRITEBYTECODE": "1"}
    environment = os.environ | quick | fresh | {"PYTHONPATH": str(root)}
    try:
        done = subprocess.run(command, cwd=root, env=environment, timeout=patience, capture_output=True)
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def outcome(mutant: Mutant, root: Path) -> str:
    """``killed``, ``survived``, or ``broken``: a mutant with which tests cannot even be collected."""
    path = root / mutant.file
    before = path.read_text()
    path.write_text(mutated(mutant, root))
    try:
        status = run_tests(root, mutant.tests)
    finally:
        path.write_text(before)
    return {0: "survived", 1: "killed", None: "killed"}.get(status, "broken")


def run(mutants: Sequence[Mutant], root: Path, kept: Path) -> Counter[str]:
    """Try each, print a table, and return how many had which outcome. ``kept`` has those of earlier runs."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        copy_tree(root, tree)
        state = files.digest(
            {str(f.relative_to(tree)): files.sha256(f) for f in tree.rglob("*") if f.is_file()}
        )
        lines = map(json.loads, kept.read_text().splitlines()) if kept.exists() else ()
        known = {key: found for now, key, found in lines if now == state}
        named = {test for m in mutants if files.digest(repr(m)) not in known for test in m.tests}
        if named and run_tests(tree, sorted(named), 10 * PATIENCE) != 0:
            raise SystemExit(f"The tests fail without any mutant: pytest -x {' '.join(sorted(named))}")
        kept.parent.mkdir(exist_ok=True)
        counts = Counter[str]()
        for mutant in mutants:
            key, started = files.digest(repr(mutant)), perf_counter()
            if key not in known:
                known[key] = outcome(mutant, tree)
                with kept.open("a") as file:
                    file.write(json.dumps([state, key, known[key]]) + "\n")
            counts[known[key]] += 1
            change = f"{mutant.text.strip()!r} -> {mutant.instead.strip()!r}"
            seconds = perf_counter() - started
            print(f"{known[key]:8} {seconds:5.1f} s  {mutant.file:32} {change}", flush=True)
    print(", ".join(f"{count} {name}" for name, count in counts.items()), f"of {len(mutants)} mutants")
    return counts


if __name__ == "__main__":
    wanted = sys.argv[1:]
    chosen = [mutant for mutant in MUTANTS if not wanted or any(word in mutant.file for word in wanted)]
    sys.exit(set(run(chosen, ROOT, ROOT / "work" / "mutants.jsonl")) != {"killed"})
