"""STaR-Acc-Full: STaR-Acc that trains on all it solved (Koh et al. 2025; arXiv:2505.16322).

Each round:
1. sample a solution of every problem, and once more where it was wrong;
2. go on training the current model on all correct ones: B_t := |D+|, with no schedule of steps.

Differences from the paper:
- Its code is not released; one pass over the solutions is how we read B_t := |D+|.

Evidence: the paper's full text (sec. 4.1, app. E).
"""

from typing import Any, ClassVar

from repro.method import Lab

from ._whole_pool import WholePool


class STaRAccFull(WholePool):
    title: ClassVar[str] = "STaR-Acc-Full"

    epochs: float = 1.0  # B_t = |D+|; paper sec. 4.1

    def round(self, lab: Lab, state: Any) -> None:
        kept = self.solved(lab)
        if kept:
            lab.train(kept, epochs=self.epochs, batch_size=self.batch_size, optimizer=self.optimizer)
