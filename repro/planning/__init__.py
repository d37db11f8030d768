"""What is asked before a study runs: what it costs, what it can see, whether this machine can run it."""
