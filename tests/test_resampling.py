"""What a draw of problems weighs."""

from __future__ import annotations

import numpy as np
import pytest

from repro.reporting.statistics import Resampler


def test_tiers_count_alike_in_every_draw_however_many_problems_they_have() -> None:
    resampler = Resampler(np.array([0, 0, 0, 1]))
    assert resampler.weights[:, 3] == pytest.approx(1 / 2)  # its tier has no other problem to draw
    assert resampler.weights[:, :3].sum(1) == pytest.approx(1 / 2)
    assert resampler.share == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
