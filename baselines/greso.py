"""GRESO: Act Only When It Pays: Efficient Reinforcement Learning for LLM Reasoning via Selective Rollouts
(Zheng et al. 2025; arXiv:2506.02177).

GRPO that skips problems whose group will probably have no variance. Each round:
1. walk the problems in random order. One whose last s groups were all correct is skipped with probability
   1 - p_easy^s, one whose last s were all wrong with 1 - p_hard^s (never above 0.99);
2. sample batches of G solutions each, dropping groups of no variance, until enough others are there; the size
   of a batch after the first follows from how many are still wanted;
3. GRPO's update on them;
4. p_easy and p_hard go down by 0.01 where easy (hard) groups were more of the samples than wanted, else up.

Differences from the paper:
- The wanted shares are the code's, a third of 25 % easy and two thirds hard; the paper's text was not read.
- A group is all wrong or all correct to the letter; the code's thresholds on the mean reward allow for a
  format bonus. Both adaptations begin in the second pass over the pool, as in the code.
- A round samples at most as many problems as the pool has.

Evidence: the released code (selector, trainer, script) and the abstract.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import ClassVar

import numpy as np

from repro.method import Completion, Lab, Optimizer

from .grpo import GRPO


@dataclass
class State:
    p_easy: float
    p_hard: float
    streak: dict[int, int] = field(
        default_factory=dict
    )  # last groups of a problem: +s all correct, -s all wrong
    ahead: list[int] = field(default_factory=list)  # problems of this pass still to come
    passes: int = 0


class GRESO(GRPO):
    title: ClassVar[str] = "GRESO"
    paper: ClassVar[str] = "Zheng et al. 2025, arXiv:2506.02177"

    n_problems: int = 256  # groups with variance in a round; code: real_train_batch_size
    batch: int = 384  # problems sampled at once, at most; code: sampling_batch_size
    least: int = 64  # and at least; code
    p_easy: float = 0.5  # at first; code
    p_hard: float = 0.5  # at first; code
    target: float = 0.25  # wanted share of groups of no variance; code: target_zero_variance
    adapt: float = 0.01  # of p per round; code
    optimizer: Optimizer = Optimizer(learning_rate=1e-6)  # code

    def start(self, lab: Lab) -> State:
        return State(self.p_easy, self.p_hard)

    def groups(self, lab: Lab, state: State) -> list[list[Completion]]:
        random = lab.rng("problems")
        useful: list[list[Completion]] = []
        sampled = easy = hard = 0
        size = self.batch
        while len(useful) < self.n_problems and sampled < len(lab.problems):
            chosen = self.unskipped(len(lab.problems), state, random, size)
            drawn = lab.sample(
                [lab.problems[i] for i in chosen], self.group_size, temperature=self.temperature
            )
            for i, group in zip(chosen, drawn, strict=True):
                rate = sum(c.correct for c in group) / len(group)
                before = state.streak.get(i, 0)
                state.streak[i] = max(before, 0) + 1 if rate == 1 else min(before, 0) - 1 if rate == 0 else 0
                easy, hard = easy + (rate == 1), hard + (rate == 0)
                useful += [group] if 0 < rate < 1 else []
            sampled += len(drawn)
            share = min((easy + hard) / sampled, 0.99)
            size = ceil(1.25 * (self.n_problems - len(useful)) / (1 - share))
            size = min(max(size, self.least), self.batch)

        if state.passes > 1:
            state.p_easy = self.moved(state.p_easy, easy / sampled >= self.target / 3)
            state.p_hard = self.moved(state.p_hard, hard / sampled >= self.target * 2 / 3)
        lab.log("selected", sampled=sampled, useful=len(useful), p_easy=state.p_easy, p_hard=state.p_hard)
        return useful[: self.n_problems]

    def unskipped(self, n: int, state: State, random: np.random.Generator, size: int) -> list[int]:
        """The next problems of the pass that are not skipped; where it ends, of the next."""
        while not state.ahead:
            state.passes += 1
            for i in random.permutation(n).tolist():
                s = state.streak.get(i, 0)
                keep = max((state.p_easy if s > 0 else state.p_hard) ** abs(s), 0.01)
                state.ahead += [i] if random.random() < keep else []
        chosen, state.ahead = state.ahead[:size], state.ahead[size:]
        return chosen

    def moved(self, p: float, too_many: bool) -> float:
        """The probability of the next round; between 0.05 and 0.95, as in the code."""
        return min(max(p + (-self.adapt if too_many else self.adapt), 0.05), 0.95)
