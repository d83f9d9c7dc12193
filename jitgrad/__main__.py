"""`python -m jitgrad` is the `jitgrad` command."""

from jitgrad.cli import main

main()
