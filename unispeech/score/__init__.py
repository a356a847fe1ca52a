"""Error rates and their confidence intervals, on plain data."""
