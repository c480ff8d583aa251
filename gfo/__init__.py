"""gfo: tune frozen language models without gradients."""
