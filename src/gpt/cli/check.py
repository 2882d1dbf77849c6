"""`gpt check URL`: what a server honours, refuses, ignores and gets wrong."""

from __future__ import annotations

import argparse

from gpt.cli.commands import FAILED, WELL

GROUPS = "models, parameters, values, tools, structured, errors, streams, cancellation, overload"
"""Those of `gpt.check.GROUPS`, which would load much for a text of help."""


def arguments(made: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    made.add_argument("url", metavar="URL", help="the server's base URL, such as http://127.0.0.1:8080/v1")
    made.add_argument("--api-key", metavar="KEY", help="its key; also OPENAI_API_KEY, for the server of OPENAI_BASE_URL alone")
    made.add_argument("-m", "--model", help="the model to ask (default: the first that the server lists)")
    made.add_argument(
        "--only", action="append", default=[], metavar="GROUP", help=f"look at this group alone; may be repeated: {GROUPS}"
    )
    made.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for each exchange (default 60)")
    made.add_argument("--burst", type=int, default=8, metavar="N", help="calls that are made at once (default 8)")
    made.add_argument("--json", action="store_true", help="print one JSON object, with all evidence")


def check(options: argparse.Namespace) -> int:
    """Print the report, a row as soon as it is there; what there is when interrupted. Gives the exit code."""
    from gpt.check.report import HEADS, Report, row, row_of
    from gpt.check.run import check as run

    report = Report(found=None if options.json else lambda finding: print(row_of(finding), flush=True))
    if not options.json:
        print(row(*HEADS), flush=True)
    try:
        run(
            options.url,
            api_key=options.api_key,
            model=options.model,
            only=options.only,
            timeout=options.timeout,
            burst=options.burst,
            report=report,
        )
    finally:
        if report.findings:
            print(report.to_json() if options.json else f"\n{report.closing()}", flush=True)
    return WELL if report.passed else FAILED
