"""Seconds of a step: against other ways to the same losses, as sizes grow, and between two versions."""
