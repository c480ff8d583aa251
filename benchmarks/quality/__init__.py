"""What whole runs reach: every space, every optimizer, on SST-2."""
