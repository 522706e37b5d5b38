"""What every trainer needs, whatever the framework: random states, statistics for evaluation, a guard against NaN."""
