"""DART: Difficulty-Aware Rejection Tuning for Mathematical Problem-Solving (Tong et al., NeurIPS 2024;
arXiv:2407.13690).

One round. Sample until every problem has its number of correct solutions, and fine-tune the *base* model
on them. That number is the same for all problems (Uniform), or in proportion to a problem's fail rate, the
hardest having k and each at least one (Prop2Diff): plain rejection sampling has most of the easy ones.

Differences from the paper:
- The paper samples from DeepSeekMath-7B-RL and trains other models; here the model samples for itself.
- Which number the budget pays for is found as it goes (so there is one run per budget): it rises 1, 2, ...
  to k as long as the budget still pays for a pass of samples and `epochs` over what will then be kept.
  Training then goes on to the end of the budget, so `epochs` is a floor.
- A problem is given up after `most_tries` samples; the paper samples until it has enough.
- Fail rates are those of `n_pilot` samples per problem, which count as samples; the paper has them from large
  sets sampled before.
- Equal solutions of a problem are kept once.

Evidence: the released README and scripts (sampling, targets, training); the abstract.
"""

from math import ceil
from typing import Any, ClassVar, Literal

from repro.method import Example, Lab, Method, Optimizer


class DART(Method):
    title: ClassVar[str] = "DART"
    paper: ClassVar[str] = "Tong et al. 2024, arXiv:2407.13690"
    one_round: ClassVar[bool] = True

    plans: Literal[True] = True  # see the differences from the paper
    allocation: Literal["uniform", "prop2diff"] = "prop2diff"  # paper sec. 3; the better of its two
    n_problems: int | None = None  # at most so many, shuffled; the paper takes all
    k: int = 40  # of a problem; README, for Uniform; the hardest has more in Prop2Diff
    n_pilot: int = 4  # our choice
    most_tries: int = 200  # our choice
    temperature: float = 1.6  # code
    top_p: float = 0.95  # code
    epochs: float = 1.0  # code: README, for Llama-3-8B
    batch_size: int = 64  # code: README
    optimizer: Optimizer = Optimizer(learning_rate=5e-5, warmup_ratio=0.03, schedule="cosine")  # code

    def round(self, lab: Lab, state: Any) -> None:
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        problems = [lab.problems[i] for i in order]
        correct: list[dict[str, None]] = [{} for _ in problems]  # different texts
        solved, tried = [0] * len(problems), [0] * len(problems)

        def sample(chosen: list[int], n: int) -> int:
            spent_before = lab.spent
            drawn = lab.sample(
                [problems[i] for i in chosen], n, temperature=self.temperature, top_p=self.top_p
            )
            for i, completions in zip(chosen, drawn, strict=True):
                tried[i] += n
                solved[i] += sum(c.correct for c in completions)
                correct[i].update({c.text: None for c in completions if c.correct})
            return lab.spent - spent_before

        price = sample(list(range(len(problems))), self.n_pilot) / (
            self.n_pilot * len(problems)
        )  # of a sample
        fails = [1 - count / self.n_pilot for count in solved]
        k, data, affords = 0, list[Example](), True
        while affords and k < self.k:
            k += 1
            wanted = targets(k, fails) if self.allocation == "prop2diff" else [k] * len(problems)
            while affords:
                data = [
                    Example(problem, text)
                    for problem, texts, n in zip(problems, correct, wanted, strict=True)
                    for text in list(texts)[:n]
                ]
                lacking = [i for i, n in enumerate(wanted) if solved[i] < n and tried[i] < self.most_tries]
                if not lacking:
                    break
                passes = self.epochs * (len(data) + len(lacking)) / self.batch_size
                training = passes * lab.step_cost(data, self.batch_size) if data else 0.0
                affords = lab.affords(int(training + price * len(lacking)))
                if affords:
                    sample(lacking, 1)
        lab.log("sampled", k=k, samples=sum(tried), kept=len(data))
        if data:
            lab.train(data, start="base", batch_size=self.batch_size, optimizer=self.optimizer)


def targets(k: int, fails: list[float]) -> list[int]:
    """Correct solutions wanted of each problem: k of the one that fails most, of others in proportion, at
    least one."""
    most = max(fails) or 1.0
    return [max(1, ceil(k * fail / most - 1e-9)) for fail in fails]
