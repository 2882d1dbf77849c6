"""A conformance report for any server that speaks the protocol: what it honours, refuses, ignores and gets wrong."""

from __future__ import annotations

from gpt.check.judge import Finding as Finding
from gpt.check.judge import Verdict as Verdict
from gpt.check.report import Report as Report
from gpt.check.run import GROUPS as GROUPS
from gpt.check.run import acheck as acheck
from gpt.check.run import check as check
