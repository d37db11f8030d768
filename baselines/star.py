"""STaR: Bootstrapping Reasoning With Reasoning (Zelikman, Wu, Mu, Goodman, NeurIPS 2022; arXiv:2203.14465).

Each round walks the whole pool once:
1. sample one solution per problem, almost greedily, and keep the correct ones;
2. where it was wrong, show the model the answer as a hint, sample again and keep what is then correct
   ("rationalisation"; the hint is not part of the training text);
3. fine-tune the *base* model, never the current one, on what was kept, for 40 * 1.2^(round-1) steps.

Differences from the paper:
- The last round of a run trains until its budget ends (see `is_last_round`), so STaR plans from its budget
  and gets one run per budget. The paper stops when accuracy on its development set, which is the test set of
  GSM8K, no longer rises.
- The hint is the final answer only; the released code shows GSM8K's whole worked solution.
- A kept set larger than steps * batch is sub-sampled, a smaller one is passed over again.
- The released code also drops incomplete sampling batches and loads the base checkpoint's Adam moments;
  we do neither.
- Without hints a failed problem is not tried again; in AdaSTaR's table STaR has a plain second attempt.
- AdaSTaR and its table read "batch of 8" as 8 examples; a row with `batch_size: 8` is that.

Evidence: the released code and a section-by-section reading of the paper; the step schedule's worked numbers.
"""

from typing import Any, ClassVar, Literal

from repro.method import Example, Lab, Method, Optimizer, is_last_round


class STaR(Method):
    title: ClassVar[str] = "STaR"
    paper: ClassVar[str] = "Zelikman et al. 2022, arXiv:2203.14465"

    plans: Literal[True] = True  # see the differences from the paper
    n_problems: int = 10_000  # at most so many problems a round, shuffled; code: n_train_samples
    temperature: float = 0.01  # code; the paper says greedy
    top_p: float = 0.9  # code
    rationalise: bool = True  # paper sec. 3.1
    length: Literal["growth", "epochs"] = "growth"  # of training; paper sec. 4.1; code without a flag: epochs
    first_steps: int = 40  # paper sec. 4.1
    growth: float = 1.2  # paper sec. 4.1
    growth_rounds: int = 30  # growth stops at the 30th round, 7,912 steps; paper sec. 4.5
    batch_size: int = 80  # paper app. H: 8 packed rows of 1,024 tokens; code: about 10 examples in each
    optimizer: Optimizer = Optimizer(learning_rate=1e-6, warmup_steps=100)  # Adam, constant; paper app. H

    def steps(self, round: int, kept: int) -> int:
        """Optimizer steps of a round: 40, 48, 57, 69, ..., or the code's epochs: 1, 1.2, 1.4, ..."""
        if self.length == "epochs":
            return max(1, int(kept * (1 + 0.2 * (round - 1)) / self.batch_size + 1e-9))
        return int(self.first_steps * self.growth ** (min(round, self.growth_rounds) - 1))

    def round(self, lab: Lab, state: Any) -> None:
        spent_before = lab.spent
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        pool = [lab.problems[i] for i in order]

        tries = [c for (c,) in lab.sample(pool, temperature=self.temperature, top_p=self.top_p)]
        kept = [c for c in tries if c.correct]
        failed = [c.problem for c in tries if not c.correct]
        if self.rationalise and failed:
            hinted = lab.sample(failed, temperature=self.temperature, top_p=self.top_p, hint=True)
            kept += [c for (c,) in hinted if c.correct]
        lab.log("sampled", visited=len(pool), unaided=len(pool) - len(failed), kept=len(kept))
        if not kept:
            return

        data = [Example(c.problem, c.text) for c in kept]
        last = is_last_round(
            remaining=lab.remaining,
            sampling=lab.spent - spent_before,
            step=lab.step_cost(data, self.batch_size),
            steps=self.steps(lab.round, len(kept)),
            next_steps=self.steps(lab.round + 1, len(kept)),
        )
        lab.train(
            data,
            start="base",
            steps=None if last else self.steps(lab.round, len(kept)),
            batch_size=self.batch_size,
            optimizer=self.optimizer,
        )
