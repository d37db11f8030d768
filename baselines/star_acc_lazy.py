"""STaR-Acc with a lazy stop: an ablation of AdaSTaR (Koh et al. 2025; arXiv:2505.16322), not in any paper.

AdaSTaR differs from STaR-Acc in two ways at once: it stops sampling as soon as the round's training set is
full, and it chooses which problems to visit. This row has the first and not the second, so the gap between
the two is what the choice of problems is worth: AdaSTaR's round, with the problems in a fresh random order.

Differences from the paper: none to differ from. The settings are AdaSTaR's.

Evidence: none; it is ours.
"""

from typing import ClassVar, Literal

from repro.method import Role

from .adastar import AdaSTaR


class STaRAccLazy(AdaSTaR):
    title: ClassVar[str] = "STaR-Acc (lazy)"
    paper: ClassVar[str] = ""
    role: ClassVar[Role] = Role.ABLATION

    priority: Literal["random"] = "random"  # so that neither `ties` nor `power` matters
