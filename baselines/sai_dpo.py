"""SAI-DPO: Dynamic Sampling that Adapts: Iterative DPO for Self-Aware Mathematical Reasoning
(Rao et al. 2025; arXiv:2505.16176).

Once: cluster the problems by the embedding of their knowledge points. Each round:
1. probe every cluster with the current model, and weight clusters by their error rate;
2. draw candidates from the clusters by weight, and sample K solutions of each;
3. order those solved sometimes but not always by self-aware difficulty: pass rate, then number of steps,
   then length; leave out the hardest tenth;
4. pair correct with wrong solutions at random; DPO from the current model.

Differences from the paper:
- There is no released code, and we read only summaries of the paper. Those give the clusters, K = 8 and the
  difficulty order; every other constant and the weighting (error rate + epsilon) are our choices, except
  the problems of a round and DPO's settings: those are DIAG's, a later method evaluated in the same setting.
- Knowledge points come with the problems (operations, subjects) and not from a tagging LLM; a problem
  without any is embedded by its question.
- P@K is taken as the pass rate c/K (version 2 of the abstract), not as "solved at least once".
- Steps are non-empty pieces of the text between `step_separator`.
- Version 2's "data persistence" (carrying selected problems over) is not implemented.
- Rows of ours: `weighting: uniform` gives every cluster the same weight; `learn: chosen` is SFT on the chosen
  solutions instead of DPO.

Evidence: summaries of the paper only; no constant but K was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from repro.method import DPO, Completion, Lab, Optimizer, Pair

from ._pairs import PairMethod


@dataclass
class State:
    clusters: list[list[int]]  # problem indices of each cluster
    recent: set[int] = field(default_factory=set)  # probed or trained on in the last round


class SAIDPO(PairMethod):
    title: ClassVar[str] = "SAI-DPO"
    paper: ClassVar[str] = "Rao et al. 2025, arXiv:2505.16176"

    n_clusters: int = 20  # our choice
    probe_per_cluster: int = 16  # our choice
    k: int = 8  # paper: K = 8
    temperature: float = 1.0  # our choice
    weighting: Literal["errors", "uniform"] = "errors"  # of clusters; paper: by what the model gets wrong
    epsilon: float = 0.01  # keeps mastered clusters in play; our choice
    n_candidates: int = 6_000  # our choice
    n_selected: int = 3_000  # problems trained on per round; DIAG
    drop_hardest: float = 0.1  # our choice
    pairs_per_problem: int = 2  # our choice
    step_separator: str = "\n"  # our choice
    objective: DPO = DPO(beta=0.1, label_smoothing=0.1)  # DIAG
    epochs: float = 2.0  # DIAG
    batch_size: int = 128  # DIAG
    optimizer: Optimizer = Optimizer(learning_rate=5e-7, schedule="cosine")  # DIAG

    def start(self, lab: Lab) -> State:
        from sklearn.cluster import KMeans  # takes seconds, which a list of the methods need not wait for

        texts = [" ".join(problem.knowledge) or problem.question for problem in lab.problems]
        unique = sorted(set(texts))
        seed = int(lab.rng("clusters").integers(2**31))
        kmeans = KMeans(min(self.n_clusters, len(unique)), n_init=10, random_state=seed)
        label = dict(zip(unique, kmeans.fit_predict(lab.embed(unique)), strict=True))
        members = [[i for i, text in enumerate(texts) if label[text] == c] for c in range(kmeans.n_clusters)]
        return State([m for m in members if m])

    def round(self, lab: Lab, state: State) -> None:
        random = lab.rng("selection")
        probes: list[list[int]] = []
        for members in state.clusters:
            fresh = [i for i in members if i not in state.recent] or members
            probes.append(random.permutation(fresh)[: self.probe_per_cluster].tolist())
        probed = [i for probe in probes for i in probe]
        tries = self.sample(lab, probed, search=True)

        errors = [1 - float(np.mean([rate(tries[i]) for i in probe])) for probe in probes]
        lab.log("probed", error_least=min(errors), error_mean=float(np.mean(errors)), error_most=max(errors))
        if self.weighting == "uniform":
            errors = [1.0] * len(errors)
        candidates = draw(state.clusters, weights(errors, self.epsilon), self.n_candidates, random)
        tries |= self.sample(lab, [i for i in candidates if i not in tries])  # same policy: probes are reused

        mixed = [i for i in candidates if 0 < rate(tries[i]) < 1]
        hardest_first = sorted(mixed, key=lambda i: self.difficulty(tries[i]))
        selected = hardest_first[int(self.drop_hardest * len(mixed)) :][: self.n_selected]
        pairs = [
            Pair(lab.problems[i], chosen, rejected)
            for i in selected
            for chosen, rejected in random_pairs(tries[i], self.pairs_per_problem, random)
        ]
        state.recent = {*probed, *selected}
        lab.log("selected", candidates=len(candidates), mixed=len(mixed))
        self.train(lab, pairs)

    def sample(self, lab: Lab, chosen: Sequence[int], search: bool = False) -> dict[int, list[Completion]]:
        if not chosen:
            return {}
        problems = [lab.problems[i] for i in chosen]
        drawn = lab.sample(problems, self.k, temperature=self.temperature, search=search)
        return dict(zip(chosen, drawn, strict=True))

    def difficulty(self, tries: Sequence[Completion]) -> tuple[float, float, float]:
        """Sort key, hardest first: low pass rate, then many steps, then long."""
        steps = np.mean([sum(bool(s.strip()) for s in c.text.split(self.step_separator)) for c in tries])
        return rate(tries), -float(steps), -float(np.mean([c.tokens for c in tries]))


def rate(tries: Sequence[Completion]) -> float:
    """P@K: the share of correct solutions."""
    return sum(c.correct for c in tries) / len(tries)


def weights(errors: Sequence[float], epsilon: float) -> list[float]:
    """Cluster weights (error rate + epsilon), summing to one."""
    total = sum(error + epsilon for error in errors)
    return [(error + epsilon) / total for error in errors]


def draw(
    clusters: Sequence[Sequence[int]], weight: Sequence[float], n: int, random: np.random.Generator
) -> list[int]:
    """``n`` different problems (or all): choose a cluster by weight, then an undrawn problem in it."""
    left = [random.permutation(members).tolist() for members in clusters]
    drawn: list[int] = []
    while len(drawn) < n and any(left):
        live = np.array([w if members else 0.0 for w, members in zip(weight, left, strict=True)])
        drawn.append(left[random.choice(len(left), p=live / live.sum())].pop())
    return drawn


def random_pairs(
    tries: Sequence[Completion], most: int, random: np.random.Generator
) -> list[tuple[str, str]]:
    """At most ``most`` (correct, wrong) texts; no solution is used twice."""
    correct = [c.text for c in tries if c.correct]
    wrong = [c.text for c in tries if not c.correct]
    k = min(most, len(correct), len(wrong))
    left, right = random.permutation(len(correct))[:k], random.permutation(len(wrong))[:k]
    return [(correct[i], wrong[j]) for i, j in zip(left, right, strict=True)]
