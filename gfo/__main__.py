"""`python -m gfo` is `gfo`."""

from gfo.cli import main

main()
