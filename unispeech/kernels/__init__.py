"""The operations of the encoder in several formulations, and the choice among them."""
