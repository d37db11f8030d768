"""Template: copy to baselines/<id>.py; the file's name becomes the method's id. (Files with a leading
underscore are not discovered.) Say here what is reproduced: authors, year, venue, arXiv id.

What it does, in five lines or fewer. This one is expert iteration, the simplest method there is:
1. sample k solutions for some problems;
2. keep the correct ones;
3. go on training the current model on them for one epoch.

Differences from the paper:
- Each with its reason, so that a reader can judge a reproduced number against the reported one.
"""

from typing import Any, ClassVar

from repro.method import Example, Lab, Method, Optimizer


class Template(Method):
    title: ClassVar[str] = "Template"  # the name in tables
    paper: ClassVar[str] = ""  # "Authors year, arXiv:...."
    # role, uses_gold, uses_corpus, one_round, and the hyper-parameter `plans`: see repro/method.py

    # Hyper-parameters: the default is the paper's value, the comment its source. Studies override by name.
    n_problems: int = 512  # per round; our choice
    k: int = 4  # samples per problem; our choice
    temperature: float = 1.0  # our choice
    batch_size: int = 8  # our choice
    optimizer: Optimizer = Optimizer(learning_rate=1e-5)  # our choice

    def start(self, lab: Lab) -> Any:
        """What is carried from round to round; leave out if nothing is."""
        return None

    def round(self, lab: Lab, state: Any) -> None:
        # Random draws come from lab.rng: the same name in the same round gives the same stream.
        order = lab.rng("order").permutation(len(lab.problems))[: self.n_problems]
        problems = [lab.problems[i] for i in order]

        drawn = lab.sample(problems, self.k, temperature=self.temperature)
        data = [Example(c.problem, c.text) for completions in drawn for c in completions if c.correct]
        lab.log("sampled", problems=len(problems), kept=len(data))

        # A round may keep nothing (a weak model): just return. BudgetSpent ends the run; never catch it.
        if data:
            lab.train(data, epochs=1, batch_size=self.batch_size, optimizer=self.optimizer)
