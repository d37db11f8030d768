"""ReST-EM: Beyond Human Data: Scaling Self-Training for Problem-Solving with Language Models
(Singh et al., TMLR 2024; arXiv:2312.06585).

Each round:
1. (E) sample 32 solutions of every problem at temperature 0.7 with top-k 40, and keep at most 10 different
   correct ones of each;
2. (M) fine-tune the *base* model, never the current one, on them.

Differences from the paper:
- The paper trains until validation reward falls. What we read names neither learning rate nor batch: these
  are AdaSTaR's, and `epochs` is ours.
- The last round of a run trains until its budget ends, as STaR's here (see `is_last_round`).
- Which 10 of more are kept is random; what we read is silent.
- AdaSTaR's table has it with 11 samples and a cap of 3: `k: 11`, `cap: 3`, with its `temperature`, `top_k`.

Evidence: the paper's constants as AdaSTaR's paper and B-STaR's restate them; its own text was not read.
"""

from collections import Counter
from typing import ClassVar

from repro.method import Example, Lab

from .star_full import STaRFull


class ReSTEM(STaRFull):
    title: ClassVar[str] = "ReST-EM"
    paper: ClassVar[str] = "Singh et al. 2023, arXiv:2312.06585"

    k: int = 32  # paper
    attempts: int = 1  # paper: all samples at once
    cap: int = 10  # correct solutions kept of a problem; paper
    temperature: float = 0.7  # paper
    top_p: float = 1.0  # what we read names none
    top_k: int = 40  # paper
    epochs: float = 3.0  # our choice

    def kept(self, lab: Lab) -> list[Example]:
        different = list(dict.fromkeys(self.solved(lab)))
        seen: Counter[str] = Counter()
        kept = []
        for i in lab.rng("cap").permutation(len(different)):
            seen[different[i].problem.id] += 1
            if seen[different[i].problem.id] <= self.cap:
                kept.append(different[i])
        lab.log("capped", different=len(different), kept_under_cap=len(kept))
        return kept
