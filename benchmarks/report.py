"""What was measured, as Markdown tables, JSON and a plot."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

from measure import Group, spread

SCALES = {"s": ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")), "B": ((float("inf"), 1e-6, "MB"),)}


def quantity(value: float, unit: str, deviation: float | None = None) -> str:
    """With three digits, in a unit that suits it: `quantity(2.61e-6, "s", 1e-7)` is "2.61 ±0.10 us"."""
    _, factor, name = next(scale for scale in SCALES[unit] if value < scale[0])
    digits = max(0, min(3, 2 - len(str(int(value * factor))) + 1)) if value * factor >= 1 else 3
    around = f" ±{deviation * factor:,.{digits}f}" if deviation is not None else ""
    return f"{value * factor:,.{digits}f}{around} {name}"


def table(group: Group) -> str:
    """A Markdown table of contenders and cases; medians, spread, and how many times the base."""
    names = list(dict.fromkeys(name for samples in group.samples.values() for name in samples))
    cases = list(group.samples)
    if len(cases) > len(names):
        rows = [["", *names], *([case, *(cell(group, case, name) for name in names)] for case in cases)]
    else:
        rows = [["", *cases], *([name, *(cell(group, case, name) for case in cases)] for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |" for row in rows]
    lines.insert(1, "|" + "-" * (widths[0] + 2) + "|" + "|".join("-" * (width + 1) + ":" for width in widths[1:]) + "|")
    return "\n".join(lines)


def cell(group: Group, case: str, name: str) -> str:
    """One median with its spread and ratio."""
    value, reference = group.median(case, name), group.reference(case)
    if value is None:
        return "-"
    text = quantity(value, group.unit, spread(group.samples[case][name]) if group.unit == "s" else None)
    return f"{text} ({ratio(value / reference)})" if reference else text


def ratio(value: float) -> str:
    """`2.61x`, `13.2x`, `171x`."""
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"


def section(name: str, group: Group) -> str:
    """The table of a group with its title and all that must be said about it."""
    head = f"## {name}: {group.title}"
    around = "median ±interquartile range" if group.unit == "s" else "one run"
    explained = f"{around}; in brackets, times {group.of}" if group.of else around
    parts = [head, f"{explained}; {group.seconds:.0f} s in all"]
    if group.samples:
        parts.append(table(group))
    reasons = {why: [who for who, other in group.missing.items() if other == why] for why in group.missing.values()}
    said = [f"not available: {', '.join(who)}: {why}" for why, who in reasons.items()]
    said += [f"WRONG: {problem}" for problem in group.failed]
    parts += ["\n".join(f"- {line}" for line in said + group.notes)] if said + group.notes else []
    return "\n\n".join(parts)


def heading(environment: dict[str, Any]) -> str:
    """Where and with what it was measured."""
    versions = ", ".join(f"{package} {version}" for package, version in environment["versions"].items())
    machine = f"{environment['processor']}, {environment['cores']} cores, of which one is used, by one thread; {environment['clock']}"
    return (
        f"{environment['time']}; Python {environment['python']}, {versions}\n{machine}; {environment['system']}; {environment['compiler']}"
    )


def save(folder: Path, environment: dict[str, Any], groups: dict[str, Group]) -> None:
    """Write `results.json`, with all samples, and `results.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, group in groups.items():
        figures = {
            case: {who: {"median": group.median(case, who), "iqr": spread(values), "samples": values} for who, values in samples.items()}
            for case, samples in group.samples.items()
        }
        found[name] = {**dataclasses.asdict(group), "samples": figures}
    (folder / "results.json").write_text(json.dumps({"environment": environment, "groups": found}, indent=1))
    text = "\n\n".join([heading(environment), *(section(name, group) for name, group in groups.items())])
    (folder / "results.md").write_text(text + "\n")


def plot(path: Path, groups: dict[str, Group]) -> None:
    """Bars of all medians, a panel per group, on a logarithmic axis. Raises ImportError without matplotlib."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plt = importlib.import_module("matplotlib.pyplot")
    shown = {name: group for name, group in groups.items() if group.samples}
    heights = [max(2.0, 0.16 * sum(len(samples) + 1 for samples in group.samples.values())) for group in shown.values()]
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, sum(heights) + 0.8 * len(shown)), height_ratios=heights, squeeze=False)
    for axis, (name, group) in zip(axes[:, 0], shown.items()):
        labels, places, place = [], [], 0.0
        for case, samples in group.samples.items():
            for who in samples:
                value = (group.median(case, who) or 0.0) * (1e6 if group.unit == "s" else 1e-6)
                axis.barh(place, value, color="tab:red" if who.startswith("hotgrad") else "tab:gray")
                labels.append(f"{case}  {who}")
                places.append(place)
                place += 1
            place += 1
        axis.set_yticks(places, labels, fontsize=6)
        axis.set(xscale="log", title=f"{name}: {group.title}", xlabel="microseconds" if group.unit == "s" else "MB")
        axis.title.set_fontsize(9)
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
