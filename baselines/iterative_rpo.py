"""Iterative RPO: Iterative Reasoning Preference Optimization (Pang et al., NeurIPS 2024; arXiv:2404.19733).

Each round:
1. sample N = 30 solutions of every problem;
2. make at most 10 pairs of a correct with a wrong one for each problem that has both;
3. DPO from the current model, which is also the reference, with the negative log-likelihood of the chosen
   solution, divided by its length, added at weight alpha = 1.

Differences from the paper:
- Both sides are shuffled and paired one by one, beginning anew with the shorter side when it ends.
- The paper trains at most 5,000 steps and selects on held-out problems; here a round is `epochs` long.
- The paper raises T from 0.8 to 1.3 after two of its four iterations (GSM8K); here T is one value, and rounds
  go on while the budget lasts.

Evidence: the constants as methods that build on the paper restate them; its abstract. No released code.
"""

from itertools import cycle, islice
from typing import Any, ClassVar

from repro.method import DPO, Lab, Optimizer, Pair

from ._pairs import PairMethod


class IterativeRPO(PairMethod):
    title: ClassVar[str] = "Iterative RPO"
    paper: ClassVar[str] = "Pang et al. 2024, arXiv:2404.19733"

    n_problems: int | None = None  # at most so many a round, shuffled; the paper takes all
    n: int = 30  # N, samples per problem; paper
    pairs_per_problem: int = 10  # K; paper
    temperature: float = 0.8  # paper, for its first two iterations
    objective: DPO = DPO(beta=0.1, nll_weight=1.0, nll_normalization="sequence")  # paper
    epochs: float = 1.0  # our choice
    batch_size: int = 16  # paper
    optimizer: Optimizer = Optimizer(learning_rate=7e-7)  # paper

    def round(self, lab: Lab, state: Any) -> None:
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        random = lab.rng("pairs")
        pairs: list[Pair] = []
        for completions in lab.sample([lab.problems[i] for i in order], self.n, temperature=self.temperature):
            sides = [[c for c in completions if c.correct is side] for side in (True, False)]
            if all(sides):
                won, lost = ([side[i].text for i in random.permutation(len(side))] for side in sides)
                wanted = min(self.pairs_per_problem, max(len(won), len(lost)))
                both = islice(zip(cycle(won), cycle(lost), strict=False), wanted)
                pairs += [Pair(completions[0].problem, chosen, rejected) for chosen, rejected in both]
        self.train(lab, pairs)
