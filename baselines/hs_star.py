"""HS-STaR: Hierarchical Sampling for Self-Taught Reasoners via Difficulty Estimation and Budget Reallocation
(Xiong et al., EMNLP 2025; arXiv:2505.19866).

Each round takes the next slice D of the problems:
1. pre-sample a few solutions per problem, and from their accuracy and process reward call it an inlier
   (mastered), an outlier (hopeless) or boundary;
2. spend the whole re-sampling budget, (n - n_pre) * |D|, on the boundary problems;
3. pair their best-rewarded correct with their best-rewarded wrong solutions; one epoch of DPO. (This third
   phase is Iterative DPO's, which stands in its own file.)

Differences from the paper:
- One file of problems per round becomes consecutive slices of the pool, which is re-shuffled for each pass
  and whose last slice may be short.
- The paper starts from an SFT on step-wise solutions: `sft_stage`, off by default and charged if on.
- The re-sampling budget is split exactly; the code generates up to |D_B| - 1 more and drops them.
- DPO's loss is not in the release: TRL's defaults of the pinned version (sigmoid, beta 0.1, no NLL term).
- phi_r averages over all pre-samples; the code merges identical texts (`merge_identical`).
- Without process rewards (`process_rewards: false` is its accuracy-only row) all pre-samples correct is an
  inlier, none an outlier; one pre-sample more (chance all-correct and all-wrong are frequent with 3);
  solutions ranked at random.
- Thresholds are those for Qwen2.5-7B with Skywork-o1-Open-PRM-Qwen-2.5-7B; other pairs need their own.

Evidence: the released code (without its generation and training scripts) and summaries of the paper; its
classes, shares and pairing were run beside this file's.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from repro.method import Lab, Problem

from .iterative_dpo import IterativeDPO, Rated


class HSSTaR(IterativeDPO):
    title: ClassVar[str] = "HS-STaR"

    n: int = 8  # samples per problem on average; code: total_num
    n_pre: int = 3  # n_p; code: eval_num
    n_pre_unscored: int = 4  # n_p without process rewards; our choice
    tau_low: float = 0.15  # code: classify_diff.py
    tau_high: float = 0.65  # code: classify_diff.py
    merge_identical: bool = False  # in phi_r; code: true

    def candidates(
        self, lab: Lab, problems: Sequence[Problem], random: np.random.Generator
    ) -> list[tuple[Problem, Rated]]:
        """The boundary problems, with pre-samples and re-samples."""
        scored = self.scored(lab)
        n_pre = self.n_pre if scored else self.n_pre_unscored
        pre = lab.sample(problems, n_pre, temperature=self.temperature, top_p=self.top_p)
        boundary = []
        classes = {"inlier": 0, "outlier": 0, "boundary": 0}
        for problem, rated in zip(problems, self.rate(lab, random, pre), strict=True):
            accuracy = sum(c.correct for _, c in rated) / n_pre
            rewards = [reward for reward, _ in rated]
            if self.merge_identical:
                rewards = list({c.text: reward for reward, c in rated}.values())
            quality = sum(rewards) / len(rewards) if scored else None
            found = class_of(accuracy, quality, self.tau_low, self.tau_high)
            classes[found] += 1
            if found == "boundary":
                boundary.append((problem, rated))
        lab.log("classified", **classes)
        if not boundary:
            return []

        extra = shares((self.n - n_pre) * len(problems), len(boundary), random)
        again = lab.sample([p for p, _ in boundary], extra, temperature=self.temperature, top_p=self.top_p)
        rated_again = self.rate(lab, random, again)
        return [(problem, old + new) for (problem, old), new in zip(boundary, rated_again, strict=True)]


def class_of(accuracy: float, quality: float | None, low: float, high: float) -> str:
    """Inlier where phi_a = 1 and phi_r > high, outlier where phi_a = 0 and phi_r < low, else boundary."""
    if accuracy == 1 and (quality is None or quality > high):
        return "inlier"
    return "outlier" if accuracy == 0 and (quality is None or quality < low) else "boundary"


def shares(total: int, problems: int, random: np.random.Generator) -> list[int]:
    """``total`` samples over ``problems`` evenly; the remainder goes to a random subset, one each."""
    floor, remainder = divmod(total, problems)
    lucky = set(random.permutation(problems)[:remainder].tolist())
    return [floor + (i in lucky) for i in range(problems)]
