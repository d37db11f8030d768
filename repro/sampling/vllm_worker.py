"""The sampling process: vLLM's offline engine behind one JSON object per line of standard input.

Run as a program by :class:`repro.sampling.vllm.VLLMSampler`. It imports nothing of the suite, so that only
weights, token ids and numbers reach it, and ends with its standard input. The first line in is the arguments
of ``vllm.LLM``; the first line out is ``{"ready": tokens of context}`` or ``{"error": why not}``. Then one of

- ``{"sample": {...}}`` -> one ``{"completion": [key, token ids, ended, log-probability]}`` each, as they
  finish;
- ``{"log_probs": prompts}`` -> ``{"log_probs": [[natural log-probability of each token but the first]]}``;
- ``{"sleep": level}`` -> ``{"slept": level}``;
- ``{"reload": model folder}`` -> ``{"reloaded": model folder}``.

Whatever goes wrong after the start ends the process with a traceback on standard error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm: Any = LLM(**settings)
        self.sleeps = settings["enable_sleep_mode"]

    @property
    def context(self) -> int:
        """Tokens of prompt and completion that fit into the cache."""
        return self.llm.llm_engine.model_config.max_model_len

    def sample(
        self, params: dict[str, Any], prompts: Sequence[tuple[list[int], list[tuple[int, int]]]]
    ) -> Iterator[list[Any]]:
        """Completions ``[key, token ids, ended, log-probability]`` of prompts
        ``(token ids, [(key, seed), ...])``; ``ended`` says that the last token is one that ends a text.

        One engine request for each completion. vLLM's own ``n`` is the same thing inside, but for its seeds:
        it gives the i-th of them ``seed + i``. The requests of a prompt share its prefill by the prefix
        cache, which starts empty, so that what was asked before leaves no trace in the rounding.
        """
        from vllm import SamplingParams, TokensPrompt

        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps its prefix cache")
        engine = self.llm.llm_engine
        for ids, wanted in prompts:
            for key, seed in wanted:
                prompt = TokensPrompt(prompt_token_ids=ids)
                engine.add_request(str(key), prompt, SamplingParams(seed=seed, **params))
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    done = output.outputs[0]
                    ended = done.finish_reason == "stop" and not isinstance(done.stop_reason, str)
                    yield [int(output.request_id), list(done.token_ids), ended, done.cumulative_logprob]

    def log_probs(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        from vllm import SamplingParams, TokensPrompt

        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts], params, use_tqdm=False
        )
        return [
            [at[token].logprob for at, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
            for ids, output in zip(prompts, outputs, strict=True)
        ]

    def sleep(self, level: int) -> None:
        if self.sleeps:
            self.llm.sleep(level=level)

    def reload(self, model_dir: str) -> None:
        """Weights first, then the cache: they need not fit the memory together with the old ones."""
        if self.sleeps:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": model_dir})
        if self.sleeps:
            self.llm.wake_up(tags=["kv_cache"])
        else:
            self.llm.collective_rpc(pack_head)


def pack_head(worker: Any) -> None:
    """The CPU build multiplies by a packed copy of the head. A reload leaves that of a tied one as it was."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in worker.get_model().modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def main() -> None:
    # Whatever a library prints, or a process that it starts, stays out of the protocol.
    commands, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def reply(**message: Any) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        engine = Engine(json.loads(commands.readline()))
    except Exception as error:  # a shape that vLLM lacks, or too little memory
        return reply(error=f"{type(error).__name__}: {error}")
    reply(ready=engine.context)
    for line in commands:
        ((command, value),) = json.loads(line).items()
        if command == "sample":
            for completion in engine.sample(**value):
                reply(completion=completion)
        elif command == "log_probs":
            reply(log_probs=engine.log_probs(value))
        elif command == "sleep":
            engine.sleep(value)
            reply(slept=value)
        elif command == "reload":
            engine.reload(value)
            reply(reloaded=value)


if __name__ == "__main__":
    main()
