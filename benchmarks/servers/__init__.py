"""What requests at a time bring, and what a second run asks."""
