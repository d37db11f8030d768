"""GRPO: Group Relative Policy Optimization (DeepSeekMath, Shao et al. 2024; arXiv:2402.03300).
The policy-gradient reference: at equal FLOPs, does self-training beat it?

Each round:
1. sample a group of G solutions of each of some problems from the current model;
2. give each solution of a group the advantage A = (r - mean) / std, r being 1 if it is correct and else 0;
3. go up the policy gradient: the sum of A x token log-probability, a mean over each solution's tokens and
   then over solutions; Adam's moments carry over.

Differences from the paper:
- G = 8, no KL to a reference, one update per sampling, as later work has settled on; the paper has G = 64 and
  KL 0.04. With one update the ratio to the sampling policy is 1, so clipping would never act. With
  `updates` > 1 the objective wants `clip_low` and `clip_high`, and its old log-probabilities are charged.
- The reward is the verifier's alone; the paper trains reward models.
- std is the unbiased one, and 1e-4 is added to it, as in TRL. A group of no variance has advantage 0; it is
  trained on all the same, and charged, as in TRL and verl.

Evidence: the paper's equations; on-policy gradients equal those of TRL's loss in float64.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, ClassVar

import numpy as np

from repro.method import Completion, Example, Lab, Method, Optimizer, PolicyGradient


class GRPO(Method):
    title: ClassVar[str] = "GRPO"
    paper: ClassVar[str] = "Shao et al. 2024, arXiv:2402.03300"

    n_problems: int = 128  # of a round; TRL and verl users' common choice of 1,024 samples
    group_size: int = 8  # G; later work
    temperature: float = 1.0  # later work
    updates: int = 1  # optimizer steps per sampling; paper sec. 4.2
    objective: PolicyGradient = PolicyGradient()
    optimizer: Optimizer = Optimizer(learning_rate=1e-6)  # paper sec. 4.2

    def round(self, lab: Lab, state: Any) -> None:
        data = [row for group in self.groups(lab, state) for row in self.weighted(group)]
        if data:
            lab.train(
                data,
                objective=self.objective,
                steps=self.updates,
                batch_size=ceil(len(data) / self.updates),
                optimizer=self.optimizer,
                inherit_optimizer=True,
            )

    def groups(self, lab: Lab, state: Any) -> list[list[Completion]]:
        """The round's samples, problem by problem."""
        chosen = lab.rng("problems").permutation(len(lab.problems))[: self.n_problems]
        return lab.sample([lab.problems[i] for i in chosen], self.group_size, temperature=self.temperature)

    def weighted(self, group: Sequence[Completion]) -> list[Example]:
        """The solutions of a group with their advantages."""
        rewards = np.array([float(c.correct) for c in group])
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        return [Example(c.problem, c.text, float(a)) for c, a in zip(group, advantages, strict=True)]
