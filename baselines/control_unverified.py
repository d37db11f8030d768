"""Control: self-training without verification. It should not help.

Exactly a lazy STaR-Acc with one attempt per problem, except that every completion is trained on, right or
wrong. What `star_acc_lazy` with one attempt gains over this row it owes to its verifier; other rows also
differ in settings. Each round:
1. sample one solution for each of steps * batch problems, in a fresh random order;
2. go on training the current model on all of them for 40 * 1.2^(round-1) steps.
"""

from typing import Any, ClassVar

from repro.method import Example, Lab, Method, Optimizer, Role


class Unverified(Method):
    title: ClassVar[str] = "Unverified self-training"
    role: ClassVar[Role] = Role.NEGATIVE

    temperature: float = 1.0  # these and the rest as in AdaSTaR, arXiv:2505.16322
    top_p: float = 0.9
    top_k: int = 50
    first_steps: int = 40
    growth: float = 1.2
    batch_size: int = 8
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)

    def round(self, lab: Lab, state: Any) -> None:
        steps = int(self.first_steps * self.growth ** (lab.round - 1))
        order = lab.rng("order").permutation(len(lab.problems))[: steps * self.batch_size]
        problems = [lab.problems[i] for i in order]
        tries = lab.sample(problems, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        data = [Example(c.problem, c.text) for (c,) in tries]
        lab.train(data, steps=steps, batch_size=self.batch_size, optimizer=self.optimizer)
