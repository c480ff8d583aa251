"""What one step goes through in gfo."""
