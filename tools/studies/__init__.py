"""The comparisons that `study.py` runs, one a file, and what they share."""
