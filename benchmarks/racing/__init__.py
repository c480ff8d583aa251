"""Racing: what it saves, how often it keeps the best candidate, and at what p it drops it."""
