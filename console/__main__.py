"""`python -m console` is the `fraudstream` command."""

from console.cli import main

main(prog_name="fraudstream")
