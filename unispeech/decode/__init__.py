"""Stored log-probabilities into words: emissions, graphs and decoders."""
