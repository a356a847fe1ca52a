"""Results tables, figures and the one HTML page of an experiment."""
