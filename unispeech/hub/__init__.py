"""Released checkpoints: reading them safely, naming their parts, writing other formats."""
