"""STaR-Acc with a lazy stop: an ablation of AdaSTaR (Koh et al. 2025; arXiv:2505.16322), not in any paper.

AdaSTaR differs from STaR-Acc in two ways at once: it stops sampling as soon as the round's training set is
full, and it chooses which problems to visit. This row has the first and not the second, so the gap between
the two is what the choice of problems is worth. Each round:
1. visit the problems in a fresh random order, at most two attempts each, until steps * batch are kept;
2. go on training the current model on them for 40 * 1.2^(round-1) steps.
With `plans: true` it has a last round, as AdaSTaR then has.

Differences from the paper: none to differ from. The settings are AdaSTaR's.
"""

from typing import Any, ClassVar

from repro.method import Example, Lab, Method, Optimizer, Role


class STaRAccLazy(Method):
    title: ClassVar[str] = "STaR-Acc (lazy)"
    role: ClassVar[Role] = Role.ABLATION

    attempts: int = 2  # as AdaSTaR, like all that follow
    rationalise: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    first_steps: int = 40
    growth: float = 1.2
    batch_size: int = 8
    chunk: int = 64
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)

    def steps(self, round: int) -> int:
        """Optimizer steps of a round: 40, 48, 57, 69, ..."""
        return int(self.first_steps * self.growth ** (round - 1))

    def round(self, lab: Lab, state: Any) -> None:
        order = lab.rng("order").permutation(len(lab.problems))
        wanted = self.steps(lab.round) * self.batch_size
        kept: list[Example] = []
        m = 0
        last, chunk_cost = False, 0
        while len(kept) < wanted and m < len(order) and not last:
            spent_before = lab.spent
            unsolved = [lab.problems[i] for i in order[m : m + self.chunk]]
            m += len(unsolved)
            for attempt in range(1, self.attempts + 1):
                tries = lab.sample(
                    unsolved,
                    temperature=self.temperature,
                    top_p=self.top_p,
                    top_k=self.top_k,
                    hint=self.rationalise and attempt > 1,
                )
                kept += [Example(c.problem, c.text) for (c,) in tries if c.correct]
                unsolved = [c.problem for (c,) in tries if not c.correct]
                if not unsolved:
                    break
            chunk_cost = max(chunk_cost, lab.spent - spent_before)
            if kept:
                training = self.steps(lab.round) * lab.step_cost(kept, self.batch_size)
                last = not lab.affords(training + 2 * chunk_cost)
        lab.log("sampled", visited=m, kept=len(kept))

        if kept:
            lab.train(
                kept[:wanted],
                steps=None if last else self.steps(lab.round),
                batch_size=self.batch_size,
                optimizer=self.optimizer,
            )
