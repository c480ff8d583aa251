"""Every method on every task at the same forward tokens: runs, tables, figures, memory."""
