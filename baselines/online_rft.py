"""Online RFT, the baseline on which B-STaR is built
(Zeng et al., ICLR 2025; arXiv:2412.17256, sec. 2.3 and app. B.1).

Each round is B-STaR's at a fixed temperature T = 1.0 and threshold tau = 0, so nothing is searched:
1. sample k solutions of every query, and keep the correct ones, best first under B-STaR's per-query cap;
2. go on training for 500 steps; Adam's moments and the learning-rate schedule carry on too.

Differences from the paper:
- Those of B-STaR that concern sampling, the cap and training.
- The row is verifier-only, the paper's "w/o RM"; its "w/ RM" is `process_rewards: true`.

Evidence: the paper's full text.
"""

from typing import ClassVar

from .b_star import BSTaR


class OnlineRFT(BSTaR):
    title: ClassVar[str] = "Online RFT"

    temperatures: tuple[float, ...] = (1.0,)  # paper app. B.1
    thresholds: tuple[float, ...] = (0.0,)  # paper app. B.1
    process_rewards: bool = False  # paper table 1: w/o RM
