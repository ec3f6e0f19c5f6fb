"""`python -m sparnet`: see `sparnet.cli`."""

from sparnet.cli import main

main()
