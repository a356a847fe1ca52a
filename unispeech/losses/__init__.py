"""Training objectives as functions of tensors."""
