"""The command line: `python -m lib run RECIPE`, `table N`, `tables`, `show RECORD`."""

import argparse
import os
import signal
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lib import recipes
from lib.device import DEVICES
from lib.experiments import ledger, published, report
from lib.recipes import BUDGETS
from lib.training.endings import TERMINATED, Diverged, Elsewhere, Unfinished

STOPPED = 75  # the exit status of a run that went on long enough and can be taken up again (EX_TEMPFAIL)
CLOSED = 128 + signal.SIGPIPE  # the exit status where the reader of the output went away
INTERRUPTED = 128 + signal.SIGINT  # the exit status after Ctrl-C
_WORDS = {"true": True, "false": False, "none": "none"}  # of a recipe's field, written as in TOML or in Python


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with one sentence on bad input, 75 for a run that stopped at --max-minutes.

    130 after Ctrl-C, 141 where nobody reads the output any more and 143 for a training that a scheduler ended.
    """
    commands: dict[str, Callable[..., int]] = {"run": _run, "table": _table, "tables": _tables, "show": _show}
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        with _flushed():
            return commands[command](**options)
    except BrokenPipeError:  # whoever read has closed the pipe, as `head` does
        return CLOSED
    except Elsewhere as share:
        print(share, file=sys.stderr)
        return 0
    except Unfinished as stop:
        print(stop, file=sys.stderr)
        return STOPPED
    except (KeyboardInterrupt, SystemExit) as stop:
        print("stopped; the same call goes on" if command == "run" else "stopped", file=sys.stderr)
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    except (ValueError, TypeError, OSError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@contextmanager
def _flushed() -> Iterator[None]:
    """What a block prints is written when it ends: Python does so at exit, where what fails is no longer caught."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            # the flush at exit must not fail on it again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="train, attack and certify one row; write its record")
    one.add_argument("recipe", help=f"one of {', '.join(recipes.names())}, or the path of a TOML file")
    one.add_argument("--budget", default="quick", help=", ".join(BUDGETS))
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", default="auto", help=", ".join(DEVICES))
    one.add_argument("--devices", type=int, default=1, help="processes on this machine")
    one.add_argument("--num-nodes", type=int, default=1, help="machines, by NODE_RANK, MASTER_ADDR and MASTER_PORT")
    one.add_argument("--data-root", help="folder of the data sets (default: LINF_DATA, else data/)")
    one.add_argument("--max-minutes", type=float, help="stop training after so long; the same call goes on from there")
    one.add_argument(
        "--results", default="results", help="folder of the ledger; a record of the same run that it has is replaced"
    )
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change one field of the recipe (TOML value or none)",
    )
    table = commands.add_parser("table", help="a table of the paper beside ours, from the ledger")
    table.add_argument("number", type=_table_name, help=", ".join(map(str, published.tables())))
    table.add_argument("--results", default="results", help="folder of the ledger")
    tables = commands.add_parser("tables", help="rewrite the tables that the book's pages include")
    tables.add_argument("--results", default="results", help="folder of the ledger")
    tables.add_argument("--folder", default="book/_generated", help="where the pages look for them")
    show = commands.add_parser("show", help="the row of one record")
    show.add_argument("record", help="path of a record, results/RECIPE/BUDGET-SEED.json")
    return parser


def _run(recipe: str, results: str, **options: Any) -> int:
    overrides = _overrides(options.pop("set"))
    # what is mistyped is refused before the seconds that the next import takes
    recipes.load(recipe, options["budget"]).replace(**overrides)
    from lib.experiments.run import run

    # a bar is for eyes, and no part of what a pipe or a log gets
    record = run(recipe, results=results, progress=sys.stdout.isatty(), **options, **overrides)
    return _show(str(ledger.path_of(results, record)))


def _overrides(texts: list[str]) -> dict[str, Any]:
    pairs = [_override(text) for text in texts]
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"--set names {name} {count} times, expected at most once")
    return dict(pairs)


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set is {text!r}, expected FIELD=VALUE")
    value = value.strip()
    if value.lower() in _WORDS:
        return name.strip(), _WORDS[value.lower()]
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # a word, or 8/255
        return name.strip(), value


def _table_name(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _table(number: int | str, results: str) -> int:
    print(report.table_page(report.table(number, results)))
    return 0


def _tables(results: str, folder: str) -> int:
    for path in report.write_tables(results, folder):
        print(path)
    return 0


def _show(record: str) -> int:
    print(report.row(ledger.read(record)).T.to_string())
    print(f"record: {record}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
