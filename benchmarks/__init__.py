"""Benchmarks of gfo, a package a question; README.md beside this file says how each is run."""
