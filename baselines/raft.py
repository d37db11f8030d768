"""RAFT: reward-ranked fine-tuning (Dong et al., TMLR 2023; arXiv:2304.06767) as the on-policy baseline of
"A Minimalist Approach to LLM Reasoning" (Xiong et al. 2025; arXiv:2504.11343).

Each round is GRPO's, but only correct solutions are trained on, all at weight 1: the policy gradient without
the negative side.

Differences from the paper:
- Wrong solutions, which the code keeps at weight 0, are left out here, and cost nothing: they have no
  policy gradient, but the code's KL term and its mean over tokens include them.
- The code's loss is a mean over the tokens of a micro-batch; here of the batch.

Evidence: the released code of the second paper (script, advantages, loss), and its abstract.
"""

from collections.abc import Sequence
from typing import ClassVar

from repro.method import Completion, Example, Optimizer, PolicyGradient

from .grpo import GRPO


class RAFT(GRPO):
    title: ClassVar[str] = "RAFT"
    paper: ClassVar[str] = "Dong et al. 2023, arXiv:2304.06767; Xiong et al. 2025, arXiv:2504.11343"

    n_problems: int = 1_024  # code: train_batch_size
    group_size: int = 4  # code: n
    updates: int = 4  # code: mini-batches of 256 problems
    objective: PolicyGradient = PolicyGradient(normalization="token", kl=0.001)  # code; k3 estimator
    optimizer: Optimizer = Optimizer(learning_rate=1e-6)  # code

    def weighted(self, group: Sequence[Completion]) -> list[Example]:
        return [Example(c.problem, c.text) for c in group if c.correct]
