"""STaR-Acc: STaR that accumulates, on which AdaSTaR is built (Koh et al. 2025; arXiv:2505.16322).

Each round:
1. sample a solution of every problem, and once more where it was wrong (with the answer as a hint, but not
   on mathematics);
2. go on training the *current* model, where STaR restarts from the base model, on the correct ones, brought
   down at random to B_t = steps * batch, for 40 * 1.2^(round-1) steps.

Differences from the paper:
- Its code is not released; the settings are AdaSTaR's, as the paper says.
- A kept set smaller than B_t is passed over again.

Evidence: the paper's full text (sec. 4.1, app. E); the step schedule's worked numbers.
"""

from typing import Any, ClassVar

from repro.method import Lab

from ._whole_pool import WholePool


class STaRAcc(WholePool):
    title: ClassVar[str] = "STaR-Acc"

    first_steps: int = 40  # paper sec. 2.1
    growth: float = 1.2  # paper sec. 2.1

    def steps(self, round: int) -> int:
        """Optimizer steps of a round: 40, 48, 57, 69, ..."""
        return int(self.first_steps * self.growth ** (round - 1))

    def round(self, lab: Lab, state: Any) -> None:
        kept = self.solved(lab)
        if kept:
            steps = self.steps(lab.round)
            lab.train(kept, steps=steps, batch_size=self.batch_size, optimizer=self.optimizer)
