"""The ``nsr`` command. Its functions parse, call the library and print; nothing is computed."""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from nsrlib.cli import inventory, papers, pictures, problems
from nsrlib.files import borrow_home, one_line


class _Grouped(TyperGroup):
    """Lists the commands by what they are for, each with its whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(200)) for name in names])


app = typer.Typer(
    cls=_Grouped,
    help="""Five image-restoration papers, checked cell by cell.

    \b
    nsr reproduce bsrn                     run a paper's notebook, write a report
    nsr upscale photo.jpg --model bsrn     a picture of any size, four times as large
    nsr evaluate published --model bsrn    PSNR and SSIM on Set5
    nsr COMMAND --help                     everything about one command
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_data = typer.Typer(help="Data sets and published weights.", no_args_is_help=True, rich_markup_mode=None)
_data.command("list")(inventory.data_list)
_data.command("fetch")(inventory.data_fetch)
_data.command("verify")(inventory.data_verify)

_GROUPS: dict[str, dict[str, Any]] = {
    "The papers": {
        "reproduce": papers.reproduce,
        "sweep": papers.sweep,
        "report": papers.report,
        "scoreboard": papers.scoreboard,
        "verify": papers.verify,
        "study": papers.study,
        "new-paper": papers.new_paper,
    },
    "Pictures": {"upscale": pictures.upscale, "evaluate": pictures.evaluate, "train": pictures.train},
    "What there is": {"models": inventory.models, "data": _data, "bench": inventory.bench},
}
for _commands in _GROUPS.values():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name)
        else:
            app.command(_name)(_command)


def main() -> None:
    """Run the command; a problem the user can solve becomes one line and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that lacks a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(str(message), 1000)}\n"
    try:
        borrow_home()
        app()
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except Exception as error:
        line = problems.line_of(error, sys.argv[1] if len(sys.argv) > 1 else "")
        if line is None:
            raise
        _stop(line)
    finally:
        warnings.formatwarning = plain


def _stop(message: str, status: int = 1) -> NoReturn:
    typer.secho(f"nsr: {message}", fg="red", err=True)
    sys.exit(status)
