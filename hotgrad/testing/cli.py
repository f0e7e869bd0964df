"""The tables that `python -m hotgrad check` prints."""

from __future__ import annotations

from collections.abc import Sequence

from hotgrad.testing.check import each
from hotgrad.testing.functions import check_programs
from hotgrad.testing.measure import power
from hotgrad.testing.report import GradientError, Report


def main(names: Sequence[str], with_power: bool = False, native: bool = False) -> int:
    """Check the primitives named, all without a name, and print a row for each; then, if asked, the power of the checks.

    `native`: compare native forms with `forward` too.

    Returns the exit status: 0, or 1 if something is wrong.
    """
    failed: list[Report] = []
    print(f"{'op':<14}{'examples':>9}{'orders':>8}{'slopes':>8}{'worst error':>13}{'native':>8}{'seconds':>9}")
    for report in each(names or None, native=native):
        _row(report)
        if report.problems:
            failed.append(report)
    if not names:
        try:
            _row(check_programs())
        except GradientError as error:
            failed.append(Report("programs", problems=list(error.problems), message=str(error)))
            _row(failed[-1])
    for report in failed:
        print(f"\n{report.name}\n{report.message}")
    if with_power:
        measured = power()
        print(f"\n{measured}")
        return int(bool(failed or measured.false_alarms))
    return int(bool(failed))


def _row(report: Report) -> None:
    if report.problems:
        print(f"{report.name:<14}{'WRONG: ' + report.problems[0].kind:>38}{'':>14}{report.seconds:>9.2f}", flush=True)
        return
    orders = {0: "value", 1: "1", 2: "1, 2"}[report.orders]
    worst = f"{report.worst:.1e}" if report.compared else ""
    print(
        f"{report.name:<14}{report.examples:>9}{orders:>8}{report.compared:>8}{worst:>13}{report.native or '':>8}{report.seconds:>9.2f}",
        flush=True,
    )
