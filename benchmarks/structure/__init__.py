"""Which sub-blocks to close: searches and rivals at equal forward tokens, and what a population costs."""
