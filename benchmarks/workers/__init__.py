"""Throughput against workers, what messages cost, and what a late worker costs the others."""
