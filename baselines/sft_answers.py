"""SFT: supervised fine-tuning on the answers alone, the first row of AdaSTaR's table
(Koh et al. 2025; arXiv:2505.16322).

One training call, passing over (question, answer) until the budget ends: the answer is what every method's
verifier knows, and no solution shows how to get there.

Differences from the paper:
- The paper stops at the best epoch by its test set; here the checkpoint is what the budget pays for, with a
  constant learning rate, so that every smaller budget has weights as good as a shorter run's.
- The answer is the last line of a solution as its data set writes it (`#### n`, or a box).
- SFT on gold *solutions*, which this paper has not and others call SFT, is the row `control_gold`; its rows
  with 8 examples or 5 votes at evaluation are not here: the suite evaluates all rows alike.

Evidence: the paper's full text (sec. 4.1) and its FLOPs, which fit one pass of 512 tokens per problem.
"""

from typing import Any, ClassVar

from repro.method import Lab, Method, Optimizer


class SFTOnAnswers(Method):
    title: ClassVar[str] = "SFT on answers"
    paper: ClassVar[str] = "Koh et al. 2025, arXiv:2505.16322"
    uses_gold: ClassVar[bool] = True
    one_round: ClassVar[bool] = True  # one training call

    batch_size: int = 8  # paper table 3
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)  # paper table 3

    def round(self, lab: Lab, state: Any) -> None:
        answers = lab.gold(lab.problems, answers_only=True)
        lab.train(answers, batch_size=self.batch_size, optimizer=self.optimizer)
