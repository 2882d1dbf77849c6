"""The report: findings in order, as a table for people and as plain values for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import msgspec

from gpt.check.judge import FAULTS, VERDICTS, Finding, Verdict

WIDTHS = (12, 30, 16, 39)
"""Columns of group, what, verdict and note: 100 with the spaces between."""


class Report:
    """What was found of the server at `url`, so far. `found` is told of each finding as it comes."""

    def __init__(self, url: str = "", found: Callable[[Finding], object] | None = None) -> None:
        self.url = url
        self.model: str | None = None
        self.findings: list[Finding] = []
        self._found = found

    def __repr__(self) -> str:
        return f"Report({self.url!r}, {len(self.findings)} findings)"

    def add(self, finding: Finding) -> None:
        """Take a finding in."""
        self.findings.append(finding)
        if self._found is not None:
            self._found(finding)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many findings there are of each verdict."""
        return {verdict: sum(one.verdict == verdict for one in self.findings) for verdict in VERDICTS}

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong, nothing silently ignored, and something was found at all."""
        return bool(self.findings) and not any(one.verdict in FAULTS for one in self.findings)

    def text(self) -> str:
        """The report as a table of 100 columns, with a line of counts."""
        return "\n".join([row(*HEADS), *(row_of(finding) for finding in self.findings), "", self.closing()])

    def closing(self) -> str:
        """The counts in a line."""
        told = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items() if count)
        return f"{self.url}, model {self.model or 'not named'}: {told or 'nothing was found out'}"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, with all evidence."""
        return {
            "url": self.url,
            "model": self.model,
            "passed": self.passed,
            "counts": self.counts,
            "findings": [msgspec.to_builtins(one) | {"evidence": list(one.evidence)} for one in self.findings],
        }

    def to_json(self) -> str:
        """The same as JSON."""
        return msgspec.json.encode(self.to_dict()).decode()


HEADS = ("group", "what", "verdict", "note")


def row(*cells: str) -> str:
    """A row of the table; a cell that is too long goes on in the lines below."""
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, WIDTHS, strict=True)]
    height = max(map(len, columns))
    lines = [
        [(column[place] if place < len(column) else "").ljust(width) for column, width in zip(columns, WIDTHS, strict=True)]
        for place in range(height)
    ]
    return "\n".join(" ".join(line).rstrip() for line in lines)


def row_of(finding: Finding) -> str:
    """A finding as a row."""
    return row(finding.group, finding.what, finding.verdict, finding.note)
