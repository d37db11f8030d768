"""The walk over the whole pool that the rows of AdaSTaR's table share (Koh et al. 2025; arXiv:2505.16322,
sec. 4.1 and app. E): they differ in how often they sample, what they keep, and where training starts."""

from typing import ClassVar

from repro.method import Example, Lab, Method, Optimizer


class WholePool(Method):
    paper: ClassVar[str] = "Koh et al. 2025, arXiv:2505.16322"

    n_problems: int | None = None  # at most so many, shuffled; the paper takes all
    k: int = 1  # samples of an attempt; paper sec. 4.1
    attempts: int = 2  # one after the other until solved; paper sec. 4.1
    rationalise: bool = False  # hint from the second attempt on; paper sec. 4.1: off for math
    temperature: float = 1.0  # paper table 3
    top_p: float = 0.9  # paper table 3
    top_k: int = 50  # default of the library of AdaSTaR's code
    batch_size: int = 8  # paper table 3
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)  # Adam; paper table 3, AdaSTaR's code for GSM8K

    def solved(self, lab: Lab) -> list[Example]:
        """The correct solutions of one walk over the pool, in random order."""
        kept: list[Example] = []
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        unsolved = [lab.problems[i] for i in order]
        for attempt in range(1, self.attempts + 1):
            tries = lab.sample(
                unsolved,
                self.k,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
                hint=self.rationalise and attempt > 1,
            )
            kept += [Example(c.problem, c.text) for completions in tries for c in completions if c.correct]
            unsolved = [
                problem
                for problem, completions in zip(unsolved, tries, strict=True)
                if not any(c.correct for c in completions)
            ]
            if not unsolved:
                break
        lab.log("sampled", visited=len(order), unsolved=len(unsolved), kept=len(kept))
        return kept
