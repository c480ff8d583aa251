"""Successive halving: how often it finds the best of a grid of full curves, and at what cost."""
