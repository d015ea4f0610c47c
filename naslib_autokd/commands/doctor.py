"""``naslib-autokd doctor``: what is installed and what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from naslib_autokd.commands._options import add_option, print_json
from naslib_autokd.commands._parser import epilog


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is installed and what is missing",
        description="Look at this installation: packages, torch, GPU, NASLib and its commit, data, teachers; print the "
        "commands that put right what is missing. The exit code is 1 if something is missing that everything needs.",
        epilog=epilog("naslib-autokd doctor", keys="works and findings: what, state, detail, fix"),
    )
    add_option(parser, "--json")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from naslib_autokd.plugin.doctor import examine, print_report, report, works

    findings = examine()
    if options.json:
        print_json(report(findings))
    else:
        print_report(findings)
    return 0 if works(findings) else 1
