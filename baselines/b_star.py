"""B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners
(Zeng et al., ICLR 2025; arXiv:2412.17256).

Each round:
1. on a small probe set, find the sampling temperature T and reward threshold tau with the best mean balance
   score  min(n' / n*, 1) * (n' / n):  n solutions pass tau, n' of them are correct and different, and
   n* = ceil(N / M) is how many are wanted of each of the M queries;
2. sample k solutions of every query at T, and keep those with reward > tau, r = correct + (2 min step - 1);
3. go on training for 500 steps; Adam's moments and the learning-rate schedule carry on too.

Differences from the paper:
- n* is ceil(N / M) as in the paper, with M the number of queries really at hand; the code fixes 8 (`n_star`).
- The balance of a query is over all that passes tau, and 0 where nothing does, as the paper writes it. The
  code first drops duplicates and what the cap (below) would drop, and leaves out queries of which nothing is
  left (`balance_over: kept`): on 12 temperatures, verifier-only, 5 choices differed.
- tau comes from the probe set as in the paper; the code searches it again on the round's whole sample.
- Process rewards in [0, 1] are scaled to [-1, 1] as the paper says; the code divides raw logits by 5.
- The per-query cap is the code's (the paper's text keeps all above tau): 1, 2, ... until N are kept, best
  first. The code also lets the human solution compete; here all training data are the model's own.
- The paper starts from one epoch of SFT on human solutions: `sft_stage`, off by default and charged if on.
- Without process rewards r is 0 or 1, tau stays 0 and only T adapts, as the paper does for APPS and ARC.
- The cosine schedule ends at 0 (paper: 2e-7) after `horizon` steps; a run longer than that needs its own.
- The search is charged to the budget; the paper calls it negligible, we count about +42% sampling. A grid of
  one point is not searched.

Evidence: the paper's full text and the released code, whose balance score was run beside this file's: none of
63,000 differed.
"""

from collections.abc import Sequence
from math import ceil
from typing import ClassVar, Literal

from repro.method import (
    Aggregation,
    Completion,
    Example,
    Lab,
    Method,
    Optimizer,
    Problem,
    SFTStage,
    aggregate,
)

Rated = list[tuple[float, Completion]]  # solutions of one query, each with its reward r


class BSTaR(Method):
    title: ClassVar[str] = "B-STaR"
    paper: ClassVar[str] = "Zeng et al. 2024, arXiv:2412.17256"

    sft_stage: SFTStage | None = None  # paper app. B.2: LR 5e-6, batch 128, its first epoch of three
    n_queries: int = 11_500  # M; paper app. B.2
    n_wanted: int = 67_500  # N, training examples per round; paper app. B.2
    n_star: int | None = None  # default: ceil(N / M); paper eq. 3; code: 8
    k: int = 64  # samples per query, at the probe too; paper app. B.2
    n_probe: int = 600  # paper sec. 3
    temperatures: tuple[float, ...] = tuple(i / 10 for i in range(5, 13))  # paper app. B.2: 0.5 .. 1.2
    thresholds: tuple[float, ...] = tuple(i / 10 for i in range(-10, 11))  # paper app. B.2: -1.0 .. 1.0
    balance_over: Literal["all", "kept"] = "all"  # paper eq. 3; code: kept
    process_rewards: bool = True  # used where a study has them; paper app. B.3: not for APPS and ARC
    aggregation: Aggregation = "min"  # of the steps' rewards; paper app. A.1
    steps: int = 500  # per round; paper app. B.2
    horizon: int = 4_500  # 9 rounds of 500 steps; paper app. B.2
    inherit_optimizer: bool = True  # moments and schedule carry over; paper sec. 2.3
    batch_size: int = 128  # paper app. B.2
    # Paper app. B.2; the warm-up is 0.2 of an epoch, the code's default.
    optimizer: Optimizer = Optimizer(learning_rate=4.12e-6, warmup_steps=105, schedule="cosine")

    def start(self, lab: Lab) -> list[Problem]:
        if self.sft_stage:
            self.sft_stage.train(lab)
        chosen = lab.rng("probe").permutation(len(lab.problems))[: self.n_probe]
        return [lab.problems[i] for i in chosen]

    def round(self, lab: Lab, state: list[Problem]) -> None:
        order = lab.rng("queries").permutation(len(lab.problems))[: self.n_queries]
        queries = [lab.problems[i] for i in order]
        temperature, threshold = self.choose(lab, state, len(queries))

        answered = self.rate(lab, lab.sample(queries, self.k, temperature=temperature))
        kept = capped([distinct_above(rated, threshold) for rated in answered], self.n_wanted)
        data = [Example(query, c.text) for query, one in zip(queries, kept, strict=True) for _, c in one]
        lab.log("kept", cap=max(map(len, kept)), kept=len(data))
        if data:
            lab.train(
                data,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=self.optimizer,
                inherit_optimizer=self.inherit_optimizer and lab.round > 1,  # never from the SFT stage
                horizon=self.horizon if self.inherit_optimizer else None,
            )

    def choose(self, lab: Lab, probes: list[Problem], n_queries: int) -> tuple[float, float]:
        """T and tau with the best mean balance score on the probe set; of equals the first on the grid."""
        scored = self.process_rewards and lab.has_process_rewards
        thresholds = self.thresholds if scored else (0.0,)
        if len(self.temperatures) == len(thresholds) == 1:
            return self.temperatures[0], thresholds[0]
        n_star = self.n_star or ceil(self.n_wanted / n_queries)
        wanted = ceil(self.n_wanted * len(probes) / n_queries)
        balance: dict[tuple[float, float], float] = {}
        for temperature in self.temperatures:
            rated = self.rate(lab, lab.sample(probes, self.k, temperature=temperature, search=True))
            for threshold in thresholds:
                if self.balance_over == "kept":
                    different = [distinct_above(one, threshold) for one in rated]
                    passed = [one for one in capped(different, wanted) if one]
                else:
                    passed = [[item for item in one if item[0] > threshold] for one in rated]
                scores = [balance_score(one, n_star) for one in passed]
                balance[temperature, threshold] = sum(scores) / max(1, len(scores))
        best = max(balance, key=lambda setting: balance[setting])
        lab.log("chosen", temperature=best[0], threshold=best[1], balance=balance[best])
        return best

    def rate(self, lab: Lab, drawn: Sequence[Sequence[Completion]]) -> list[Rated]:
        """Each solution with r = correct + (2 * step reward - 1), or just correct without rewards."""
        if not (self.process_rewards and lab.has_process_rewards):
            return [[(float(c.correct), c) for c in completions] for completions in drawn]
        steps = iter(lab.score([c for completions in drawn for c in completions]))
        return [
            [(c.correct + 2 * aggregate(next(steps), self.aggregation) - 1, c) for c in completions]
            for completions in drawn
        ]


def balance_score(passed: Rated, n_star: int) -> float:
    """bs of one query, in [0, 1], of the solutions that pass the threshold; 0 without any. Paper eq. 3."""
    different = len({c.text for _, c in passed if c.correct})
    return min(different / n_star, 1) * different / len(passed) if passed else 0.0


def distinct_above(rated: Rated, threshold: float) -> Rated:
    """The solutions with reward above the threshold, each text once, best first."""
    best: dict[str, tuple[float, Completion]] = {}
    for reward, c in sorted(rated, key=lambda item: -item[0]):
        if reward > threshold:
            best.setdefault(c.text, (reward, c))
    return list(best.values())


def capped(ranked: Sequence[Rated], wanted: int) -> list[Rated]:
    """Of each query the first solutions, under the smallest cap per query that keeps ``wanted`` in all."""
    most = max(map(len, ranked), default=0)
    caps = (cap for cap in range(1, most) if sum(min(cap, len(one)) for one in ranked) >= wanted)
    cap = next(caps, most)
    return [one[:cap] for one in ranked]
