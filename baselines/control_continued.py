"""Control: the same FLOPs spent on more of the base model's own warm-start corpus.

Without this row a gain from further pre-training passes for self-improvement. Each round takes fresh corpus
rows and makes one pass over them with a constant learning rate; Adam's moments carry over, so the rounds
together are one uninterrupted training run.
"""

from typing import Any, ClassVar

from repro.method import Lab, Method, Optimizer, Role


class Continued(Method):
    title: ClassVar[str] = "Continued warm start"
    role: ClassVar[Role] = Role.CONTINUED
    uses_corpus: ClassVar[bool] = True
    one_round: ClassVar[bool] = True  # rounds only bound memory

    rows: int = 2_048  # fresh rows per round; only bounds memory
    batch_size: int = 8  # as AdaSTaR
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)  # as AdaSTaR; constant, so any budget may cut it

    def round(self, lab: Lab, state: Any) -> None:
        lab.train(
            lab.corpus(self.rows),
            epochs=1,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            inherit_optimizer=True,
        )
