"""The `fraudstream` command. Commands are imported when they are called, so that `--help` stays instant."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

_COMMANDS = {
    "up": ("console.commands_run", "Start the local AWS and deploy the pipeline into it."),
    "down": ("console.commands_run", "Stop everything that `up` started."),
    "switch-engine": ("console.commands_run", "Have the other engine decide, on the same data."),
    "env": ("console.commands_run", "Print the variables that point any AWS tool at the running pipeline."),
    "doctor": ("console.commands_run", "Say what is missing on this machine and what to type."),
    "simulate": ("console.commands_stream", "Write simulated transactions to a file."),
    "publish": ("console.commands_stream", "Publish transactions from a file or the simulator."),
    "score": ("console.commands_stream", "Ask for decisions right away, through the score API."),
    "bootstrap": ("console.commands_stream", "Load history before T into the online state."),
    "train": ("console.commands_model", "Train a model on a file of transactions."),
    "evaluate": ("console.commands_model", "Compare exported decisions with the truth."),
    "export": ("console.commands_model", "Write what the pipeline decided to a file."),
    "status": ("console.commands_look", "Counts, lag and latency of the running pipeline."),
    "watch": ("console.commands_look", "Watch the pipeline live."),
    "query": ("console.commands_look", "Ask the lake in SQL, through Athena."),
    "explain": ("console.commands_look", "Show one decision and why it was taken."),
    "consistency": ("console.commands_look", "Compute served features again and compare them, bit by bit."),
    "policy": ("console.commands_policy", "Look at the decision policy, try another one, put it into force."),
    "rescore": ("console.commands_rescore", "Give degraded decisions the score that they lack."),
    "lists": ("console.commands_policy", "Block and allow lists of cards, merchants, devices and addresses."),
    "label": ("console.commands_look", "Report a decided transaction as fraud or as legitimate."),
    "quarantine": ("console.commands_quarantine", "Look at rejected records, correct them, send them again."),
    "package": ("console.commands_package", "Build what a deployment needs beside the template."),
    "deploy": ("console.commands_deploy", "Deploy to an AWS account, or bring a deployment up to date."),
    "destroy": ("console.commands_deploy", "Delete a deployment from an AWS account; data stay unless asked for."),
    "completion": ("console.commands_shell", "Print the script that completes this command in a shell."),
    "demo": ("console.demo", "The main job from nothing to a summary."),
}


class LazyGroup(click.Group):
    """Knows every command's name and summary without importing its module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[name][0]), f"{name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)  # noqa: S101  a wrong table entry is a bug of ours
        _keep_paragraphs(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, _COMMANDS, n=3)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:  # of what lies around a command; commands have `exit_codes`
            from console.failures import as_click_error

            told = as_click_error(error)
            if told is error:
                raise
            raise told from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


def _keep_paragraphs(command: click.Command) -> None:
    r"""Have click print what follows a line `\b` as it stands.

    Click looks for a backspace character there; docstrings with a backslash are raw, which makes it two characters.
    """
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    for one in getattr(command, "commands", {}).values():
        _keep_paragraphs(one)


def _show_version(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from console.versions import version_lines

    for line in version_lines():
        click.echo(line)
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    *("--version", "show_version"),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Version, commit and feature sets, then end.",
)
def main() -> None:
    r"""Streaming real-time fraud detection: run it, feed it, look into it.

    \b
    Example:
      fraudstream up
      fraudstream publish --simulate 1000 --wait
      fraudstream status
      fraudstream down
    """


_keep_paragraphs(main)
