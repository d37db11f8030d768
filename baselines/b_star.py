"""B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners
(Zeng et al., ICLR 2025; arXiv:2412.17256).

Each round:
1. on a small probe set, find the sampling temperature T and reward threshold tau with the best mean balance
   score  min(n' / n*, 1) * (n' / n):  n solutions pass tau, n' of them are correct and different, and
   n* = ceil(N / M) is how many are wanted of each of the M queries;
2. sample k solutions of every query at T, and keep those with reward > tau, r = correct + (2 min step - 1);
3. go on training for 500 steps; Adam's moments and the learning-rate schedule carry on too.

Differences from the paper:
- n* is ceil(N / M) as in the paper (the code fixes 8), with M the number of queries really at hand.
- tau comes from the probe set as in the paper; the code searches it again on the round's whole sample.
- A probe query of which nothing passes tau scores 0; the code leaves such queries out of the mean.
- Process rewards in [0, 1] are scaled to [-1, 1] as the paper says; the code divides raw logits by 5.
- The per-query cap is the code's (the paper's text keeps all above tau): 1, 2, ... until N are kept, best
  first. The code also lets the human solution compete; here all training data are the model's own.
- Without process rewards r is 0 or 1, tau stays 0 and only T adapts, as the paper does for APPS and ARC.
- The cosine schedule ends at 0 (paper: 2e-7) after `horizon` steps; a run longer than that needs its own.
- The search is charged to the budget; the paper calls it negligible, we count about +42% sampling.
"""

from collections.abc import Sequence
from math import ceil
from typing import ClassVar

from repro.method import Aggregation, Completion, Example, Lab, Method, Optimizer, Problem, aggregate

Rated = list[tuple[float, Completion]]  # solutions of one query, each with its reward r


class BSTaR(Method):
    title: ClassVar[str] = "B-STaR"
    paper: ClassVar[str] = "Zeng et al. 2024, arXiv:2412.17256"

    n_queries: int = 11_500  # M; paper app. B.2
    n_wanted: int = 67_500  # N, training examples per round; paper app. B.2
    k: int = 64  # samples per query, at the probe too; paper app. B.2
    n_probe: int = 600  # paper sec. 3
    temperatures: tuple[float, ...] = tuple(i / 10 for i in range(5, 13))  # paper app. B.2: 0.5 .. 1.2
    thresholds: tuple[float, ...] = tuple(i / 10 for i in range(-10, 11))  # paper app. B.2: -1.0 .. 1.0
    aggregation: Aggregation = "min"  # of the steps' rewards; paper app. A.1
    steps: int = 500  # per round; paper app. B.2
    horizon: int = 4_500  # 9 rounds of 500 steps; paper app. B.2
    batch_size: int = 128  # paper app. B.2
    # Paper app. B.2; the warm-up is 0.2 of an epoch, the code's default.
    optimizer: Optimizer = Optimizer(learning_rate=4.12e-6, warmup_steps=105, schedule="cosine")

    def start(self, lab: Lab) -> list[Problem]:
        chosen = lab.rng("probe").permutation(len(lab.problems))[: self.n_probe]
        return [lab.problems[i] for i in chosen]

    def round(self, lab: Lab, state: list[Problem]) -> None:
        order = lab.rng("queries").permutation(len(lab.problems))[: self.n_queries]
        queries = [lab.problems[i] for i in order]
        n_star = ceil(self.n_wanted / len(queries))

        balance: dict[tuple[float, float], float] = {}
        for temperature in self.temperatures:
            probes = self.rate(lab, lab.sample(state, self.k, temperature=temperature, search=True))
            for threshold in self.thresholds if lab.has_process_rewards else (0.0,):
                scores = [balance_score(probe, threshold, n_star) for probe in probes]
                balance[temperature, threshold] = sum(scores) / len(scores)
        best = max(balance, key=lambda setting: balance[setting])  # of equals the first on the grid
        temperature, threshold = best

        answered = self.rate(lab, lab.sample(queries, self.k, temperature=temperature))
        ranked = [distinct_above(rated, threshold) for rated in answered]
        cap = smallest_cap([len(texts) for texts in ranked], self.n_wanted)
        data = [
            Example(query, text) for query, texts in zip(queries, ranked, strict=True) for text in texts[:cap]
        ]
        lab.log("chosen", temperature=temperature, threshold=threshold, balance=balance[best])
        lab.log("kept", cap=cap, kept=len(data))
        if data:
            lab.train(
                data,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=self.optimizer,
                inherit_optimizer=True,
                horizon=self.horizon,
            )

    def rate(self, lab: Lab, drawn: Sequence[Sequence[Completion]]) -> list[Rated]:
        """Each solution with r = correct + (2 * step reward - 1), or just correct without rewards."""
        if not lab.has_process_rewards:
            return [[(float(c.correct), c) for c in completions] for completions in drawn]
        steps = iter(lab.score([c for completions in drawn for c in completions]))
        return [
            [(c.correct + 2 * aggregate(next(steps), self.aggregation) - 1, c) for c in completions]
            for completions in drawn
        ]


def balance_score(rated: Rated, threshold: float, n_star: int) -> float:
    """bs of one query, in [0, 1]; 0 where nothing passes the threshold. Paper eq. 3."""
    passed = [c for reward, c in rated if reward > threshold]
    different = len({c.text for c in passed if c.correct})
    return min(different / n_star, 1) * different / len(passed) if passed else 0.0


def distinct_above(rated: Rated, threshold: float) -> list[str]:
    """The different texts with reward above the threshold, best first."""
    passed = sorted((item for item in rated if item[0] > threshold), key=lambda item: -item[0])
    return list(dict.fromkeys(c.text for _, c in passed))


def smallest_cap(sizes: Sequence[int], wanted: int) -> int:
    """The smallest cap per query under which ``wanted`` texts are kept, or the one that keeps all."""
    most = max(sizes, default=0)
    return next((cap for cap in range(1, most) if sum(min(cap, size) for size in sizes) >= wanted), most)
