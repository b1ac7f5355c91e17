"""What `make bench` runs: ours against plain restatements of the published code."""
