"""STaR-Acc-Full-K: STaR-Acc-Full with K samples of every problem (Koh et al. 2025; arXiv:2505.16322).

Each round:
1. sample K = 5 solutions of every problem, without hints;
2. go on training the current model on all correct ones. The paper lets it stand for methods that sample much.

Differences from the paper:
- Its code is not released; equal solutions of a problem are kept as often as they were sampled.

Evidence: the paper's full text (sec. 4.1, app. E).
"""

from typing import ClassVar

from .star_acc_full import STaRAccFull


class STaRAccFullK(STaRAccFull):
    title: ClassVar[str] = "STaR-Acc-Full-K"

    k: int = 5  # paper sec. 4.1
    attempts: int = 1  # paper sec. 4.1: no rationalization, and all K at once
