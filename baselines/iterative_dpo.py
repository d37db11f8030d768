"""Iterative DPO: HS-STaR's loop with every problem sampled alike; what its choice of problems is worth.

Each round takes the next slice D of the problems:
1. sample n solutions of each;
2. pair its best-rewarded correct with its best-rewarded wrong solutions;
3. one epoch of DPO from the current model, which is also the reference.

Differences from the paper:
- We have not seen the tables of HS-STaR's paper (Xiong et al. 2025, arXiv:2505.19866), and its baselines are
  not in its code: this is its third phase on uniform samples, and the settings are HS-STaR's.
- Without process rewards solutions are ranked at random.
- `learn: chosen` is ours: SFT on the chosen solutions instead of DPO.

Evidence: HS-STaR's released code, of phase 3; its pairing was run beside this file's: none of 5,000 differed.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from repro.method import DPO, Aggregation, Completion, Lab, Optimizer, Pair, Problem, SFTStage, aggregate

from ._pairs import PairMethod

Rated = list[tuple[float, Completion]]  # solutions of one problem, each with its reward S


class IterativeDPO(PairMethod):
    title: ClassVar[str] = "Iterative DPO"
    paper: ClassVar[str] = "Xiong et al. 2025, arXiv:2505.19866"

    sft_stage: SFTStage | None = None  # HS-STaR's code: 1 epoch of LR 1e-6, batch 256 on step-wise solutions
    problems_per_round: int = 7_500  # code: one file per round
    n: int = 8  # samples per problem; code: total_num
    temperature: float = 0.7  # code: synth_iteration_split.sh
    top_p: float = 0.95  # code: synth_iteration_split.sh
    process_rewards: bool = True  # used where a study has them
    aggregation: Aggregation = "min"  # S(r), of the steps' rewards; paper
    objective: DPO = DPO(beta=0.1)  # TRL's defaults; paper and code are silent
    epochs: float = 1.0  # code: train_iteration_dpo.sh
    batch_size: int = 256  # code: train_iteration_dpo.sh
    optimizer: Optimizer = Optimizer(learning_rate=5e-7, warmup_ratio=0.03, schedule="cosine")  # code: README

    def start(self, lab: Lab) -> list[int]:
        if self.sft_stage:
            self.sft_stage.train(lab)
        return []  # problems still ahead in this pass over the pool

    def round(self, lab: Lab, state: list[int]) -> None:
        if not state:
            state += lab.rng("pass").permutation(len(lab.problems)).tolist()
        problems = [lab.problems[i] for i in state[: self.problems_per_round]]
        del state[: self.problems_per_round]
        random = lab.rng("pairs")

        pairs = [
            Pair(problem, chosen, rejected)
            for problem, rated in self.candidates(lab, problems, random)
            for chosen, rejected in pair_up(rated, random)
        ]
        self.train(lab, pairs)

    def candidates(
        self, lab: Lab, problems: Sequence[Problem], random: np.random.Generator
    ) -> list[tuple[Problem, Rated]]:
        """The problems to make pairs of, with their solutions."""
        drawn = lab.sample(problems, self.n, temperature=self.temperature, top_p=self.top_p)
        return list(zip(problems, self.rate(lab, random, drawn), strict=True))

    def scored(self, lab: Lab) -> bool:
        return self.process_rewards and lab.has_process_rewards

    def rate(
        self, lab: Lab, random: np.random.Generator, drawn: Sequence[Sequence[Completion]]
    ) -> list[Rated]:
        """Each solution with S, made of its step rewards, or a random number where there are no rewards."""
        if not self.scored(lab):
            return [[(float(random.random()), c) for c in completions] for completions in drawn]
        steps = iter(lab.score([c for completions in drawn for c in completions]))
        return [[(aggregate(next(steps), self.aggregation), c) for c in completions] for completions in drawn]


def pair_up(rated: Rated, random: np.random.Generator) -> list[tuple[str, str]]:
    """(chosen, rejected) texts: the K best-rewarded of each side, shuffled; K is the size of the smaller."""
    ranked = sorted(rated, key=lambda item: -item[0])
    correct = [c.text for _, c in ranked if c.correct]
    wrong = [c.text for _, c in ranked if not c.correct]
    k = min(len(correct), len(wrong))
    left, right = random.permutation(k), random.permutation(k)
    return [(correct[i], wrong[j]) for i, j in zip(left, right, strict=True)]
