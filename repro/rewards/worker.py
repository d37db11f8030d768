"""The pooling process: vLLM on a reward model, one request per line of standard input.

Run as a program by :class:`repro.rewards.pooling.PoolingScorer`, with the options of ``vllm.LLM`` as JSON. A
request is a JSON list of rows ``[token ids, positions]``; its reply, one line, gives for each row the second
label's logit less the first one's at these positions. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main(options: dict[str, Any]) -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints stays out of the protocol
    from vllm import LLM, PoolingParams, TokensPrompt
    from vllm.config import PoolerConfig

    # One pass over each row: there is no decoding that a captured graph would speed up. Every token's logits
    # come back, since only the caller knows which marks are its own and which the model's text spells.
    llm = LLM(
        **options,
        runner="pooling",
        enforce_eager=True,
        pooler_config=PoolerConfig(task="token_classify", tok_pooling_type="ALL"),
    )
    params = PoolingParams(use_activation=False)
    for line in sys.stdin:
        rows = json.loads(line)
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids, _ in rows]
        outputs = llm.encode(prompts, params, pooling_task="token_classify", use_tqdm=False)
        margins = []
        for (_, marks), output in zip(rows, outputs, strict=True):
            logits = output.outputs.data[marks].double()
            margins.append((logits[:, 1] - logits[:, 0]).tolist())
        replies.write(json.dumps(margins) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
