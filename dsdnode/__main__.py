"""`python -m dsdnode`: the command, where it is not on PATH."""

from dsdnode.cli.main import main

main()
