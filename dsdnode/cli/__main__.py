"""`python -m dsdnode.cli`: how one command starts another without trusting PATH."""

from dsdnode.cli.main import main

main()
