"""AdaSTaR: Adaptive Data Sampling for Training Self-Taught Reasoners (Koh et al. 2025; arXiv:2505.16322).

Each round t:
1. walk the problems in the order (round last sampled, win rate then), neither removing nor re-ordering;
2. try each at most twice and keep its correct solution, until B_t = steps * batch are kept;
3. go on training the current model on them for 40 * 1.2^(t-1) steps;
4. of the m problems visited give only the first floor(m * alpha^2) new statistics, alpha being the solved
   fraction: a model that still fails much sees the same (easier) problems again.

Differences from the paper:
- alpha is the fraction of visited problems that were solved (released code); the paper writes it as an
  output of training. floor is the paper's; the code rounds (`pops: round`).
- Ties are broken by a seeded random permutation; the paper is silent and the code compares id strings
  (`ties: id`).
- The second attempt is a plain re-sample, and there is no learning-rate warm-up, as the paper (no hints on
  math) and its code (constant rate) have it for GSM8K; elsewhere they use hints and 100 warm-up steps.
- The code clips no gradients (`optimizer: {max_grad_norm: 0}`), trains in pure bfloat16 and in the order in
  which solutions were kept; here gradients are clipped at 1, weights are float32 and batches are shuffled.
- Problems are visited `chunk` at a time. The overshoot of the last chunk is charged and counts in m; the
  kept solutions beyond B_t are dropped. If the whole pool does not fill B_t, training cycles.
- With `plans: true` (ours, and one run per budget) the round in which the budget no longer pays for its steps
  and two chunks more is the last: it trains on what is kept until the budget ends.
- A sort replaces the heap: for the orders that begin with `last` popping, re-dating and pushing back gives
  the same. With `win, last` (AdaSTaR-PF) a heap may pop a failed problem again; here each is popped once.

Evidence: the paper's full text and the released code, whose heap was run beside this file: the same problems
in all 400 rounds of three plays.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from repro.method import Example, Lab, Method, Optimizer


@dataclass
class Statistics:
    """Per problem: the round it was last sampled in (0: never), its win rate then, and its tie-break rank."""

    last: list[int]
    wins: list[float]
    rank: list[int]

    def order(self, priority: str) -> list[int]:
        """Problems in the order in which a min-heap of these would give them."""
        keys = {
            "last, win": lambda i: (self.last[i], self.wins[i], self.rank[i]),
            "last": lambda i: (self.last[i], self.rank[i]),
            "win, last": lambda i: (self.wins[i], self.last[i], self.rank[i]),
        }
        return sorted(range(len(self.last)), key=keys[priority])


class AdaSTaR(Method):
    title: ClassVar[str] = "AdaSTaR"
    paper: ClassVar[str] = "Koh et al. 2025, arXiv:2505.16322"

    attempts: int = 2  # K, one after the other until solved; paper sec. 2.1
    rationalise: bool = False  # hint from the second attempt on; paper sec. 4.1: off for math
    temperature: float = 1.0  # paper table 3
    top_p: float = 0.9  # paper table 3
    top_k: int = 50  # default of the code's library
    # What the heap sorts by; paper alg. 1. Ablations (sec. 5): without w_i "last", AdaSTaR-PF "win, last".
    priority: Literal["last, win", "last", "win, last", "random"] = "last, win"
    ties: Literal["random", "id"] = "random"  # see the differences from the paper
    power: float = 2.0  # exponent of alpha; paper alg. 1; 0 is its ablation without AdaC
    pops: Literal["floor", "round"] = "floor"  # paper alg. 1; code: round
    first_steps: int = 40  # paper sec. 2.1
    growth: float = 1.2  # paper sec. 2.1
    batch_size: int = 8  # paper table 3
    chunk: int = 64  # problems visited at once; our choice (the code: what its GPUs hold)
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)  # Adam; paper table 3, code for GSM8K

    def start(self, lab: Lab) -> Statistics:
        n = len(lab.problems)
        ids = sorted(range(n), key=str)  # 0, 1, 10, 100, ...
        rank = (
            lab.rng("ties").permutation(n).tolist()
            if self.ties == "random"
            else [ids.index(i) for i in range(n)]
        )
        return Statistics([0] * n, [0.0] * n, rank)

    def steps(self, round: int) -> int:
        """Optimizer steps of a round: 40, 48, 57, 69, ..."""
        return int(self.first_steps * self.growth ** (round - 1))

    def round(self, lab: Lab, state: Statistics) -> None:
        if self.priority == "random":
            order = lab.rng("order").permutation(len(lab.problems)).tolist()
        else:
            order = state.order(self.priority)
        wanted = self.steps(lab.round) * self.batch_size  # B_t
        kept: list[Example] = []
        wins: dict[int, float] = {}  # of the problems solved in this round
        m = 0
        last, chunk_cost = False, 0
        while len(kept) < wanted and m < len(order) and not last:
            spent_before = lab.spent
            unsolved = order[m : m + self.chunk]
            m += len(unsolved)
            for attempt in range(1, self.attempts + 1):
                tries = lab.sample(
                    [lab.problems[i] for i in unsolved],
                    temperature=self.temperature,
                    top_p=self.top_p,
                    top_k=self.top_k,
                    hint=self.rationalise and attempt > 1,
                )
                for i, (c,) in zip(unsolved, tries, strict=True):
                    if c.correct:
                        kept.append(Example(c.problem, c.text))
                        wins[i] = 1 / attempt
                unsolved = [i for i in unsolved if i not in wins]
                if not unsolved:
                    break
            chunk_cost = max(chunk_cost, lab.spent - spent_before)
            if kept:
                training = self.steps(lab.round) * lab.step_cost(kept, self.batch_size)
                last = not lab.affords(training + 2 * chunk_cost)

        popped = order[: pops(m, len(wins) / m, self.power, self.pops)]
        lab.log("solved enough", visited=m, alpha=len(wins) / m, kept=len(kept), popped=len(popped))
        if kept:
            lab.train(
                kept[:wanted],
                steps=None if last else self.steps(lab.round),
                batch_size=self.batch_size,
                optimizer=self.optimizer,
            )

        for i in popped:
            state.last[i] = lab.round
            state.wins[i] = wins.get(i, 0.0)


def pops(m: int, alpha: float, power: float = 2.0, how: str = "floor") -> int:
    """How many of the m visited problems get new statistics: floor(m * alpha^2)."""
    # 49 * (7 / 49)**2 is 1, in floating point a little less
    return round(m * alpha**power) if how == "round" else int(m * alpha**power + 1e-9)
