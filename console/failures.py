"""Errors as users see them: what went wrong, then what to do next. No stack trace gets past here: it goes into a file.

0 done, 1 failed, 2 usage: a UsageError is the caller's to mend, everything else is a failure.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from stream_features.errors import PipelineError, UsageError

TRACE_VARIABLE: Final = "FRAUDSTREAM_TRACE"  # set: the stack trace goes to stderr as well

_OF_THE_WIRE: Final = ("botocore", "boto3", "urllib3", "httpx", "httpcore")
_ABOUT_FILES: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
# By the name of the class or of its nearest base that stands here: importing the classes would cost every `--help`.
_NEXT: Final = {
    "MalformedRecord": "mend that row of the file, or say with --mapping what its columns mean (docs/mappings.md)",
    "PortFailure": "`fraudstream doctor` says which part does not answer; then type the same command again",
    "StateCorrupt": "`fraudstream doctor` looks at the parts; what is kept can be discarded with `fraudstream down`",
    "ContractMismatch": "code, model and data are not of one kind: `fraudstream doctor` compares them; a model of "
    "this code comes from `fraudstream train FILE --out DIR --activate`",
    "InvalidPolicy": "mend the document and check it with `fraudstream policy validate FILE` (docs/policy.md)",
    "PolicyRefused": "mend the document and check it with `fraudstream policy validate FILE` (docs/policy.md)",
    "EntitiesRefused": "what is named keeps its state; everything else is loaded and need not be loaded again",
    "NoDecision": "`fraudstream explain TRANSACTION_ID` says where it is; only what was decided can be labelled here",
    "NotSettled": "`fraudstream status` shows what is behind, `fraudstream doctor` which part fails",
    "DeploymentFailed": "mend what it says, then type the same command again: what is done stays done (docs/deploy.md)",
    "ActivationFailed": "the endpoint's alarms and its log say why; then type the same command again",
    "RunFailed": "`fraudstream doctor` says what this machine lacks; `fraudstream down`, then `fraudstream up` starts "
    "afresh",
    "TimeoutError": "`fraudstream doctor` says which part does not answer; then type the same command again",
    "PipelineError": "`fraudstream doctor` looks at the machine and the pipeline",
}


def as_click_error(error: Exception) -> Exception:
    """What click shows for `error`: its message with the next step. Raises nothing; a broken pipe stays what it is."""
    if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort | BrokenPipeError):
        return error
    if isinstance(error, UsageError):
        return click.UsageError(str(error))
    if isinstance(error, PipelineError | TimeoutError):
        return click.ClickException(_with_next(_words(error), next_step(error)))
    if isinstance(error, ConnectionError) or type(error).__module__.partition(".")[0] in _OF_THE_WIRE:
        return click.ClickException(_with_next(f"AWS: {_words(error)}", _NEXT["PortFailure"]))
    if isinstance(error, _ABOUT_FILES) or (isinstance(error, OSError) and error.filename is not None):
        return click.ClickException(_with_next(_words(error), _next_of_file(error)))
    kept = _keep_trace(error)
    said = _words(error).splitlines()
    what = f"unexpected {type(error).__name__}" + (f": {said[0]}" if said else "")
    return click.ClickException(
        _with_next(what, f"this is a fault of the program; its stack trace, for a report, is in {kept}")
    )


def next_step(error: Exception) -> str:
    """What to do about an error that was raised on purpose."""
    return next(_NEXT[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _NEXT)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or type(error).__name__}"
    return str(error) or type(error).__name__


def _with_next(message: str, step: str) -> str:
    return f"{message}\nNext: {step}"


def _next_of_file(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "free some space, then type the same command again"
    if isinstance(error, PermissionError):
        return "choose another place, or a user that may use this one"
    return "check the path; the folder of an --out file must exist"


def _keep_trace(error: Exception) -> Path:
    """Append the stack trace to the run's log of commands, or to one in the temporary folder; answers which."""
    trace = "".join(traceback.format_exception(error))
    if os.environ.get(TRACE_VARIABLE):
        click.echo(trace, err=True)
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    entry = f"{moment} {' '.join(sys.argv)}\n{trace}\n"
    from local.run import log_path, state_folder

    for path in (log_path(state_folder(), "commands"), Path(tempfile.gettempdir()) / "fraudstream-commands.log"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as log:
                log.write(entry)
        except OSError:
            continue
        return path
    click.echo(trace, err=True)  # nowhere to keep it: better seen than lost
    return Path(os.devnull)
