"""RFT: Scaling Relationship on Learning Mathematical Reasoning with Large Language Models
(Yuan et al. 2023; arXiv:2308.01825).

Rejection-sampling fine-tuning, one round:
1. sample k solutions per problem at temperature 0.7;
2. keep those with the right answer in which every written equation is arithmetically true;
3. keep one per distinct reasoning path, that is per ordered list of equations; of two with the same
   path, the one farther (summed edit distance) from the other kept solutions of its problem;
4. fine-tune the *base* model on them.

Differences from the paper:
- k is planned from the budget (so there is one run per budget): starting at 1, k is at most doubled as
  long as what would be left still pays for `epochs` passes over the paths, supposing that these grow in
  proportion to k. Training then goes on to the end of the budget, so `epochs` is a floor.
- Only the model's own solutions are trained on, and the sampling model is the base model: by default no
  other method here sees gold rationales. The paper samples from a model fine-tuned on gold for 3 epochs and
  trains on gold and paths together: that is `sft_stage`, off by default and charged if on.
- Solutions without <<...>> calculator annotations are keyed by their `a op b = c` equations, failing that
  by their text; in the released code they all share the empty key. Equations are checked wherever they
  are written, by exact fractions within the code's tolerance of 0.001; unreadable ones are not judged.
- The code's off-by-one in its seeds (99 of 100 files used) is not reproduced.

Evidence: the released code and its table; of the paper the abstract. Worked cases of paths and equations.
"""

from typing import Any, ClassVar, Literal

from repro.method import Example, Lab, Method, Optimizer, SFTStage

from ._paths import distinct, equations_hold, path


class RFT(Method):
    title: ClassVar[str] = "RFT"
    paper: ClassVar[str] = "Yuan et al. 2023, arXiv:2308.01825"
    one_round: ClassVar[bool] = True

    plans: Literal[True] = True  # see the differences from the paper
    sft_stage: SFTStage | None = None  # code: 3 epochs, batch 128, LR 2e-5
    n_problems: int | None = None  # at most so many, shuffled; the paper takes all
    k_max: int = 100  # paper: k = 100
    temperature: float = 0.7  # code
    top_k: int = 50  # code sets none, so the default of its library applies
    epochs: float = 3.0  # code: train_*.sh
    batch_size: int = 128  # code: train_*.sh
    optimizer: Optimizer = Optimizer(learning_rate=2e-5, warmup_ratio=0.03, schedule="cosine")  # code

    def start(self, lab: Lab) -> None:
        if self.sft_stage:
            self.sft_stage.train(lab)

    def round(self, lab: Lab, state: Any) -> None:
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        problems = [lab.problems[i] for i in order]
        correct: list[list[str]] = [[] for _ in problems]
        k, more = 0, 1
        while more:
            spent_before = lab.spent
            drawn = lab.sample(problems, more, temperature=self.temperature, top_k=self.top_k)
            for texts, completions in zip(correct, drawn, strict=True):
                texts += [c.text for c in completions if c.correct and equations_hold(c.text)]
            k += more
            one_more = (lab.spent - spent_before) / more
            paths = [
                Example(problem, text)
                for problem, texts in zip(problems, correct, strict=True)
                for text in {path(text): text for text in texts}.values()
            ]
            passes = self.epochs * len(paths) / self.batch_size
            training = passes * lab.step_cost(paths, self.batch_size) if paths else 0.0
            more = further(lab.remaining, k, one_more, training, self.k_max)
        lab.log("sampled", k=k, correct=sum(map(len, correct)), paths=len(paths))
        if not paths:
            return

        data = lab.gold(problems) if self.sft_stage else []
        data += [
            Example(problem, text)
            for problem, texts in zip(problems, correct, strict=True)
            for text in distinct(texts)
        ]
        lab.train(data, start="base", batch_size=self.batch_size, optimizer=self.optimizer)


def further(remaining: int, k: int, one_more: float, training: float, k_max: int) -> int:
    """How many more samples per problem to draw, having k of them.

    ``one_more`` is the price of one sample of every problem and ``training`` that of the wanted epochs
    over today's paths, both in FLOPs. At most a doubling, because the extrapolation is linear.
    """
    affordable = int((remaining - training) / (one_more + training / k))
    return max(0, min(affordable, k, k_max - k))
