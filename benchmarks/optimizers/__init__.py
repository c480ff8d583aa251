"""gfo's optimizers against reference implementations, on functions."""
