"""The power of a comparison: how likely a true gain is seen."""

from __future__ import annotations

import numpy as np

from repro.reporting.statistics import ALPHA, detection, satterthwaite


def detectable(
    problems: int,
    k: int,
    *,
    gain: float = 0.05,
    accuracy: float = 0.35,
    seeds: int = 1,
    seed_noise: float = 0.0,
    comparisons: int = 1,
) -> float:
    """The power to see that one method is better by ``gain`` on a benchmark of ``problems`` problems: the
    probability that a two-sided t-test of the paired difference finds it in the first step of Holm's
    correction for so many ``comparisons``.

    Supposed, with p the chance to solve a problem: p ~ Beta(``accuracy``, 1 - ``accuracy``) over problems,
    which makes many of them nearly hopeless or nearly sure, as benchmarks are; the gain is one shift of all
    log-odds, so sure and hopeless problems gain nothing; ``k`` samples of each problem for each of ``seeds``
    training seeds, whose own spread is ``seed_noise`` in log-odds. Then, to first order, the difference has
    the variance

        (2 E[p(1-p)] / (k seeds) + s^2 Var[p(1-p)]) / problems + 2 (seed_noise E[p(1-p)])^2 / seeds

    with the shift s = gain / E[p(1-p)]. The first part has problems - 1 degrees of freedom, the second
    2 (seeds - 1), and their sum Satterthwaite's; with one seed, which cannot tell it, the second is as if
    it were known.
    """
    a, b = accuracy, 1 - accuracy
    spread = a * b / 2  # E[p(1-p)]
    varied = a * (a + 1) * b * (b + 1) / 24 - spread**2  # Var[p(1-p)]
    of_problems = (2 * spread / (k * seeds) + (gain / spread) ** 2 * varied) / problems
    of_seeds = 2 * (seed_noise * spread) ** 2 / seeds
    df = satterthwaite([(of_problems, problems - 1), (of_seeds, 2 * (seeds - 1) if seeds > 1 else np.inf)])
    return detection(gain, of_problems + of_seeds, df, ALPHA / comparisons)
