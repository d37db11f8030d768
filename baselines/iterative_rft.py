"""Iterative RFT, a baseline of B-STaR (Zeng et al., ICLR 2025; arXiv:2412.17256, sec. 2.3, app. B.1).

Each round is Online RFT's, but only the weights carry on: Adam's moments and the learning-rate schedule begin
anew.

Differences from the paper:
- Those of Online RFT. The schedule of a round (its warm-up included) is over that round's steps.

Evidence: the paper's full text.
"""

from typing import ClassVar

from .online_rft import OnlineRFT


class IterativeRFT(OnlineRFT):
    title: ClassVar[str] = "Iterative RFT"

    inherit_optimizer: bool = False  # paper sec. 2.3
