"""Manifests, audio, labels and batches."""
