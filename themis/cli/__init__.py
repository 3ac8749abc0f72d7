"""The command `themis`: parse, call, print.

Exit codes: 0 when every metric scored everything it attempted, 4 when a gate failed (--fail-under, --max-regression), 3
when a run is partial or interrupted, 2 for wrong usage, 1 for any other error.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from themis import __version__
from themis.cli._shared import ERROR, OK, PARTIAL, USAGE
from themis.cli.compare import compare_command
from themis.cli.eval import evaluate_command
from themis.cli.importing import import_command
from themis.cli.names import list_group
from themis.cli.runs import list_runs, runs_group, show_run
from themis.cli.score import score_command
from themis.errors import ThemisError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    logging.basicConfig(level=logging.WARNING, format="themis: %(message)s", stream=sys.stderr)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of the command; errors are one sentence on stderr."""
    try:
        return int(themis.main(args=arguments, prog_name="themis", standalone_mode=False) or OK)
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted: what was answered is stored; run the same command again to go on", PARTIAL)
    except UsageError as error:
        return _complain(str(error), USAGE)
    except (ThemisError, OSError) as error:
        return _complain(str(error), ERROR)


def _complain(message: str, code: int) -> int:
    click.echo(f"themis: {message}", err=True)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="themis")
def themis() -> None:
    """Evaluate language models: on threads or a Ray cluster, with every record stored at any URL."""


themis.add_command(evaluate_command)
themis.add_command(score_command)
themis.add_command(compare_command)
themis.add_command(import_command)
themis.add_command(runs_group)
themis.add_command(show_run)
list_group.add_command(list_runs, "runs")
themis.add_command(list_group)
