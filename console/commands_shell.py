"""`completion`: the command in an interactive shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from console.options import exit_codes

COMMAND = "fraudstream"
COMPLETE_VARIABLE = "_FRAUDSTREAM_COMPLETE"  # what click makes of the command's name


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@exit_codes
def completion_command(ctx: click.Context, shell: str) -> None:
    r"""Print the script that completes commands, options, query names, feature sets and files in SHELL.

    It works where `fraudstream` itself is found: source .venv/bin/activate first.

    \b
    Example:
      eval "$(fraudstream completion bash)"
      fraudstream completion zsh > ~/.zfunc/_fraudstream
      fraudstream completion fish > ~/.config/fish/completions/fraudstream.fish
    """
    completer = get_completion_class(shell)
    assert completer is not None  # noqa: S101  click has these three
    click.echo(completer(ctx.find_root().command, {}, COMMAND, COMPLETE_VARIABLE).source())
