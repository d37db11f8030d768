"""Reinforce-Rej: A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce
(Xiong et al. 2025; arXiv:2504.11343).

Each round is GRPO's with RAFT's settings, but a correct solution has weight 1, a wrong one -1, and groups of
no variance (all correct or all wrong) are dropped.

Differences from the paper:
- Dropped groups, which the code keeps at weight 0, are left out here, and cost nothing: they have no
  policy gradient, but the code's KL term and its mean over tokens include them.
- The code's loss is a mean over the tokens of a micro-batch; here of the batch.

Evidence: the released code (script, advantages, loss) and the abstract.
"""

from collections.abc import Sequence
from typing import ClassVar

from repro.method import Completion, Example, PolicyGradient

from .raft import RAFT


class ReinforceRej(RAFT):
    title: ClassVar[str] = "Reinforce-Rej"
    paper: ClassVar[str] = "Xiong et al. 2025, arXiv:2504.11343"

    # Code: policy_loss "plusplus" with verl's clip ratio of 0.2, token mean, KL 0.001 by the k3 estimator.
    objective: PolicyGradient = PolicyGradient(normalization="token", clip_low=0.2, clip_high=0.2, kl=0.001)

    def weighted(self, group: Sequence[Completion]) -> list[Example]:
        if len({c.correct for c in group}) == 1:
            return []
        return [Example(c.problem, c.text, 1.0 if c.correct else -1.0) for c in group]
