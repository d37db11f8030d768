"""What the rows that learn from pairs share: DPO on the pairs, or, which is ours, SFT on their chosen
solutions, as often as they are chosen. The second says what a selection is worth without the objective."""

from collections.abc import Sequence
from typing import Literal

from repro.method import DPO, SFT, Example, Lab, Method, Optimizer, Pair


class PairMethod(Method):
    learn: Literal["pairs", "chosen"] = "pairs"
    objective: DPO
    epochs: float
    batch_size: int
    optimizer: Optimizer

    def train(self, lab: Lab, pairs: Sequence[Pair]) -> None:
        """Go on training the current model, which is also DPO's reference."""
        lab.log("paired", pairs=len(pairs))
        if not pairs:
            return
        chosen = [Example(pair.problem, pair.chosen) for pair in pairs]
        lab.train(
            pairs if self.learn == "pairs" else chosen,
            objective=self.objective if self.learn == "pairs" else SFT(),
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
        )
