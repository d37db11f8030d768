"""STaR-Full: STaR that trains on all it solved (Koh et al. 2025; arXiv:2505.16322).

Each round:
1. sample a solution of every problem, and once more where it was wrong;
2. fine-tune the *base* model on all correct ones: B_t := |D+|, with no schedule of steps.

Differences from the paper:
- Its code is not released; one pass over the solutions is how we read B_t := |D+|.
- The last round of a run trains until its budget ends, as STaR's here (see `is_last_round`).

Evidence: the paper's full text (sec. 4.1, app. E).
"""

from math import ceil
from typing import Any, ClassVar, Literal

from repro.method import Example, Lab, is_last_round

from ._whole_pool import WholePool


class STaRFull(WholePool):
    title: ClassVar[str] = "STaR-Full"

    plans: Literal[True] = True  # see the differences from the paper
    epochs: float = 1.0  # B_t = |D+|; paper sec. 4.1

    def round(self, lab: Lab, state: Any) -> None:
        spent_before = lab.spent
        kept = self.kept(lab)
        if not kept:
            return
        steps = ceil(self.epochs * len(kept) / self.batch_size)
        last = is_last_round(
            remaining=lab.remaining,
            sampling=lab.spent - spent_before,
            step=lab.step_cost(kept, self.batch_size),
            steps=steps,
            next_steps=steps,
        )
        lab.train(
            kept,
            start="base",
            steps=None if last else steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
        )

    def kept(self, lab: Lab) -> list[Example]:
        """What a round trains on."""
        return self.solved(lab)
