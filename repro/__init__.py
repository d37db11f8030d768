"""Benchmark and reproducibility suite for self-taught reasoners under matched FLOP budgets."""

__version__ = "0.1.0"
