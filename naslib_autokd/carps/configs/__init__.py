"""Tasks and optimizers for CARP-S, in its format (hydra)."""
