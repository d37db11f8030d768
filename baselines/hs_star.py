"""HS-STaR: Hierarchical Sampling for Self-Taught Reasoners via Difficulty Estimation and Budget Reallocation
(Xiong et al., EMNLP 2025; arXiv:2505.19866).

Each round takes the next slice D of the problems:
1. pre-sample a few solutions per problem, and from their accuracy and process reward call it an inlier
   (mastered), an outlier (hopeless) or boundary;
2. spend the whole re-sampling budget, (n - n_pre) * |D|, on the boundary problems;
3. pair their best-rewarded correct with their best-rewarded wrong solutions; one epoch of DPO.

Differences from the paper:
- One file of problems per round becomes consecutive slices of the pool, which is re-shuffled for each pass
  and whose last slice may be short.
- The step-wise initialisation (an SFT stage) is left out: all methods here start from the same base model.
- The re-sampling budget is split exactly; the code generates up to |D_B| - 1 more and drops them.
- DPO's loss is not in the release: TRL's defaults of the pinned version (sigmoid, beta 0.1, no NLL term).
- phi_r averages over all pre-samples; the code merges identical texts.
- Without process rewards the row is verifier-only: all pre-samples correct is an inlier, none an outlier;
  one pre-sample more (chance all-correct and all-wrong are frequent with 3); solutions ranked at random.
- Thresholds are those for Qwen2.5-7B with Skywork-o1-Open-PRM-Qwen-2.5-7B; other pairs need their own.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from repro.method import DPO, Aggregation, Completion, Lab, Method, Optimizer, Pair, aggregate

Rated = list[tuple[float, Completion]]  # solutions of one problem, each with its reward S


class HSSTaR(Method):
    title: ClassVar[str] = "HS-STaR"
    paper: ClassVar[str] = "Xiong et al. 2025, arXiv:2505.19866"

    problems_per_round: int = 7_500  # code: one file per round
    n: int = 8  # samples per problem on average; code: total_num
    n_pre: int = 3  # n_p; code: eval_num
    n_pre_unscored: int = 4  # n_p without process rewards; our choice
    aggregation: Aggregation = "min"  # S(r), of the steps' rewards; paper
    tau_low: float = 0.15  # code: classify_diff.py
    tau_high: float = 0.65  # code: classify_diff.py
    temperature: float = 0.7  # code: synth_iteration_split.sh
    top_p: float = 0.95  # code: synth_iteration_split.sh
    objective: DPO = DPO(beta=0.1)  # TRL's defaults; paper and code are silent
    epochs: float = 1.0  # code: train_iteration_dpo.sh
    batch_size: int = 256  # code: train_iteration_dpo.sh
    optimizer: Optimizer = Optimizer(learning_rate=5e-7, warmup_ratio=0.03, schedule="cosine")  # code: README

    def start(self, lab: Lab) -> list[int]:
        return []  # problems still ahead in this pass over the pool

    def round(self, lab: Lab, state: list[int]) -> None:
        if not state:
            state += lab.rng("pass").permutation(len(lab.problems)).tolist()
        problems = [lab.problems[i] for i in state[: self.problems_per_round]]
        del state[: self.problems_per_round]
        random = lab.rng("pairs")

        n_pre = self.n_pre if lab.has_process_rewards else self.n_pre_unscored
        pre = lab.sample(problems, n_pre, temperature=self.temperature, top_p=self.top_p)
        boundary = [
            (problem, rated)
            for problem, rated in zip(problems, self.rate(lab, random, pre), strict=True)
            if is_boundary(
                accuracy=sum(c.correct for _, c in rated) / n_pre,
                quality=sum(reward for reward, _ in rated) / n_pre if lab.has_process_rewards else None,
                low=self.tau_low,
                high=self.tau_high,
            )
        ]
        lab.log("classified", problems=len(problems), boundary=len(boundary))
        if not boundary:
            return

        extra = shares((self.n - n_pre) * len(problems), len(boundary), random)
        again = lab.sample([p for p, _ in boundary], extra, temperature=self.temperature, top_p=self.top_p)
        pairs = [
            Pair(problem, chosen, rejected)
            for (problem, before), after in zip(boundary, self.rate(lab, random, again), strict=True)
            for chosen, rejected in pair_up(before + after, random)
        ]
        lab.log("paired", pairs=len(pairs))
        if pairs:
            lab.train(
                pairs,
                objective=self.objective,
                epochs=self.epochs,
                batch_size=self.batch_size,
                optimizer=self.optimizer,
            )

    def rate(
        self, lab: Lab, random: np.random.Generator, drawn: Sequence[Sequence[Completion]]
    ) -> list[Rated]:
        """Each solution with S, made of its step rewards, or a random number where there are no rewards."""
        if not lab.has_process_rewards:
            return [[(float(random.random()), c) for c in completions] for completions in drawn]
        steps = iter(lab.score([c for completions in drawn for c in completions]))
        return [[(aggregate(next(steps), self.aggregation), c) for c in completions] for completions in drawn]


def is_boundary(accuracy: float, quality: float | None, low: float, high: float) -> bool:
    """Neither inlier (phi_a = 1 and phi_r > high) nor outlier (phi_a = 0 and phi_r < low)."""
    inlier = accuracy == 1 and (quality is None or quality > high)
    outlier = accuracy == 0 and (quality is None or quality < low)
    return not inlier and not outlier


def shares(total: int, problems: int, random: np.random.Generator) -> list[int]:
    """``total`` samples over ``problems`` evenly; the remainder goes to a random subset, one each."""
    floor, remainder = divmod(total, problems)
    lucky = set(random.permutation(problems)[:remainder].tolist())
    return [floor + (i in lucky) for i in range(problems)]


def pair_up(rated: Rated, random: np.random.Generator) -> list[tuple[str, str]]:
    """(chosen, rejected) texts: the K best-rewarded of each side, shuffled; K is the size of the smaller."""
    ranked = sorted(rated, key=lambda item: -item[0])
    correct = [c.text for _, c in ranked if c.correct]
    wrong = [c.text for _, c in ranked if not c.correct]
    k = min(len(correct), len(wrong))
    left, right = random.permutation(k), random.permutation(k)
    return [(correct[i], wrong[j]) for i, j in zip(left, right, strict=True)]
