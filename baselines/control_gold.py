"""Control: supervised fine-tuning on the gold solutions of the training problems. An upper reference.

The self-training methods see only whether an answer is right; this row sees how to get there. One training
call, passing over the gold solutions until the budget ends, with a constant learning rate so that the
weights at every smaller budget are as good as those of a shorter run.
"""

from typing import Any, ClassVar

from repro.method import Lab, Method, Optimizer, Role


class GoldSolutions(Method):
    title: ClassVar[str] = "SFT on gold solutions"
    role: ClassVar[Role] = Role.UPPER
    uses_gold: ClassVar[bool] = True
    one_round: ClassVar[bool] = True

    batch_size: int = 8  # as AdaSTaR
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)  # as AdaSTaR

    def round(self, lab: Lab, state: Any) -> None:
        data = lab.gold(lab.problems)
        lab.train(data, batch_size=self.batch_size, optimizer=self.optimizer)
