"""The command line."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hotgrad import experiments
from hotgrad.__main__ import main
from hotgrad.errors import DataError
from hotgrad.modules import Linear, ReLU
from hotgrad.training import Sequential

Capture = pytest.CaptureFixture[str]


def accuracies(text: str) -> dict[str, float]:
    return {line.split()[0]: float(line.split()[2]) for line in text.splitlines() if line.startswith(("train ", "test "))}


def test_the_reference_experiment(capsys: Capture) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert accuracies(printed)["test"] >= 0.975
    for part in ("1,000 training", "15,000 steps", "MatMul", "Tanh", "Mean"):
        assert part in printed
    assert len(printed.splitlines()) < 45


def test_options_without_a_command_are_those_of_disc(capsys: Capture) -> None:
    assert main(["--epochs", "3", "--loss", "cross-entropy", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "cross-entropy on labels" in printed
    assert "LogSoftmax" in printed


def test_runs(capsys: Capture) -> None:
    assert main(["disc", "--runs", "2", "--epochs", "4", "--momentum", "0.9", "--cosine"]) == 0
    printed = capsys.readouterr().out
    assert "momentum 0.9, cosine" in printed
    assert "mean" in printed
    assert "2 runs in" in printed


def test_baselines(capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    assert main(["disc", "--epochs", "3", "--baselines"]) == 0
    printed = capsys.readouterr().out
    for name in ("logistic regression", "k-NN", "random forest", "torch.nn"):
        assert name in printed


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["disc", "--epochs", "3", "--plot", str(tmp_path / "disc.png")]) == 0
    assert (tmp_path / "disc.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_optional_packages(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for name in ("sklearn.ensemble", "sklearn.datasets", "matplotlib.figure", "hotgrad.testing.cli"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["disc", "--epochs", "1", "--plot", "x.png"]) == 2
    assert "hotgrad[plot]" in capsys.readouterr().err
    assert main(["digits"]) == 2
    assert "hotgrad[sklearn]" in capsys.readouterr().err
    assert main(["check"]) == 2
    assert "hotgrad[test]" in capsys.readouterr().err
    assert main(["disc", "--epochs", "1", "--baselines"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_digits(capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    assert main(["digits", "--epochs", "5"]) == 0
    assert accuracies(capsys.readouterr().out)["test"] > 0.9


def write(path: Path, rows: list[list[Any]]) -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def table(kind: str) -> list[list[Any]]:
    g = torch.Generator().manual_seed(0)
    rows: list[list[Any]] = [["size", "colour", "id", "y"]]
    for i in range(80):
        size, red = float(torch.randn((), generator=g)), i % 2
        value: Any = 2 * size + red
        if kind != "number":
            value = {"words": ("no", "yes"), "labels": (3, 7)}[kind][value > 0.5]
        rows.append([f"{size:.4f}" if i % 17 else "", "red" if red else "blue", f"n{i}", value])
    return rows


@pytest.mark.parametrize(("kind", "says"), [("words", "2 classes (no, yes)"), ("labels", "2 classes (3, 7)"), ("number", "a number")])
def test_a_table_of_ones_own(kind: str, says: str, tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "table.csv", table(kind))
    assert main(["csv", path, "--target", "y", "--epochs", "30"]) == 0
    printed = capsys.readouterr().out
    assert says in printed
    assert "column 'id' is left out" in printed
    assert accuracies(printed)["train"] > 0.8
    model = Sequential(Linear(3, 64), ReLU(), Linear(64, 64), ReLU(), Linear(64, 1 if kind == "number" else 2))
    model.load(tmp_path / "table.hotgrad")
    assert main(["csv", path, "--target", "y", "--epochs", "1", "--save", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize("offset", [1.6e9, -1e8])
def test_tables_far_from_zero(offset: float, tmp_path: Path, capsys: Capture) -> None:
    """Unix times as a feature, and a target beside which float32 tells only multiples of 128 apart."""
    g = torch.Generator().manual_seed(0)
    a = torch.rand(120, generator=g, dtype=torch.float64).tolist()
    path = write(tmp_path / "t.csv", [["time", "y"], *([repr(1.7e9 + 60 * v), repr(offset + 10 * v)] for v in a)])
    assert main(["csv", path, "--target", "y", "--epochs", "60"]) == 0
    printed = capsys.readouterr().out
    assert accuracies(printed)["test"] > 0.99
    error = float(next(line for line in printed.splitlines() if "mean absolute error" in line).split()[-1])
    assert error < 0.3


BAD: dict[str, tuple[list[list[Any]], str]] = {
    "no such column": ([["a", "b"], [1, 2]] * 3, "no column 'y'; it has a, b"),
    "only a header": ([["a", "y"]], "rows below it"),
    "a short row": ([["a", "y"], [1, 2], [3]], "row 3: 1 cells, but the header has 2"),
    "a name twice": ([["a", "a", "y"], [1, 2, 3]], "names a column twice"),
    "one class": ([["a", "y"], *([i, "x"] for i in range(9))], "only one value"),
    "gaps in a target of text": (
        [["a", "y"], *([i, ("yes", "no", "")[i % 3]] for i in range(9))],
        "3 values missing or infinite, the first, '', in row 4",
    ),
    "NA in a target of text": ([["a", "y"], *([i, ("yes", "no", "NA")[i % 3]] for i in range(9))], "3 values missing"),
    "an infinite target": (
        [["a", "y"], *([i, i / 7 if i else "inf"] for i in range(9))],
        "1 values missing or infinite, the first, 'inf', in row 2",
    ),
    "gaps in the target": ([["a", "y"], *([i, i / 7 if i else ""] for i in range(9))], "1 values missing"),
    "no features": ([["y"], *([i] for i in range(9))], "no column besides"),
    "too few rows": ([["a", "y"], [1, 2], [3, 4]], "too few"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(case: str, tmp_path: Path, capsys: Capture) -> None:
    rows, says = BAD[case]
    assert main(["csv", write(tmp_path / "t.csv", rows), "--target", "y"]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_bad_commands(capsys: Capture) -> None:
    assert main(["csv", "nowhere.csv", "--target", "y"]) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert main(["disc", "--runs", "2", "--plot", "x.png"]) == 2
    assert "--runs" in capsys.readouterr().err
    for arguments in (["dics"], ["disc", "--epochs", "0"], ["csv", "x.csv"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_encodings(encoding: str, tmp_path: Path, capsys: Capture) -> None:
    rows = "größe,y\n" + "\n".join(f"{i},{'é' if i % 2 else 'ü'}" for i in range(12))
    (tmp_path / "t.csv").write_bytes(rows.encode(encoding))
    arguments = ["csv", str(tmp_path / "t.csv"), "--target", "y", "--epochs", "1"]
    if encoding in ("latin-1", "cp1252", "utf-16-le"):
        assert main(arguments) == 2
        assert "--encoding" in capsys.readouterr().err
        arguments += ["--encoding", encoding]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "features: größe" in printed
    assert "(é, ü)" in printed


def test_what_is_no_text(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "t.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\xff")
    assert main(["csv", str(tmp_path / "t.csv"), "--target", "y"]) == 2
    assert "no text in UTF-8" in capsys.readouterr().err
    assert main(["csv", str(tmp_path / "t.csv"), "--target", "y", "--encoding", "utf-9"]) == 2
    assert "no encoding 'utf-9'" in capsys.readouterr().err


def test_places_are_tried_before_the_training(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(Sequential, "fit", None)
    table_ = write(tmp_path / "table.csv", table("number"))
    (tmp_path / "folder.png").mkdir()
    for place, says in (
        ("x.xyz", "'xyz'; known are .*png"),
        ("x", "without an ending"),
        ("no/x.png", "no folder"),
        ("folder.png", "is a folder"),
        ("x.png/", "no name of a file"),
    ):
        assert main(["disc", "--epochs", "1", "--plot", f"{tmp_path}/{place}"]) == 2
        assert re.search(says, capsys.readouterr().err)
    for place, says in (("no/model", "no folder"), ("folder.png", "is a folder"), ("table.csv/model", "no folder"), ("new/", "no name")):
        assert main(["csv", table_, "--target", "y", "--save", f"{tmp_path}/{place}"]) == 2
        assert re.search(says, capsys.readouterr().err)
    for nothing in (["disc", "--plot", ""], ["disc", "--runs", "2", "--plot", ""], ["csv", table_, "--target", "y", "--save", ""]):
        assert main(nothing) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "table.csv"]


def test_a_table_is_not_replaced_by_its_model(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequential, "fit", None)
    plain, model = write(tmp_path / "table.csv", table("number")), write(tmp_path / "table2.hotgrad", table("number"))
    (tmp_path / "soft").symlink_to("table.csv")
    (tmp_path / "hard").hardlink_to(plain)
    (tmp_path / "table.hotgrad").symlink_to("table.csv")
    (tmp_path / "there.csv").symlink_to("table2.hotgrad")
    before = Path(plain).read_bytes(), Path(model).read_bytes()
    cases = [[plain, "--save", str(tmp_path / name)] for name in ("table.csv", "soft", "hard", "../" + tmp_path.name + "/table.csv")]
    for case in (*cases, [str(tmp_path / "soft"), "--save", plain], [plain], [model], [str(tmp_path / "there.csv"), "--save", model]):
        assert main(["csv", *case, "--target", "y"]) == 2
        assert "is the table itself" in capsys.readouterr().err
    assert (Path(plain).read_bytes(), Path(model).read_bytes()) == before


@pytest.mark.parametrize("folder", [".", "..", "/", ""])
def test_a_folder_is_no_table(folder: str, capsys: Capture) -> None:
    assert main(["csv", folder, "--target", "y"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("seed", ["18446744073709551616", "-1", "x", "1.5"])
def test_bad_seeds(seed: str, capsys: Capture) -> None:
    for command in (["disc"], ["digits"], ["csv", "t.csv", "--target", "y"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, f"--seed={seed}"])
        assert caught.value.code == 2
        assert "--seed" in capsys.readouterr().err


def test_large_seeds(capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    assert main(["disc", "--epochs", "1", "--baselines", "--seed", str(2**64 - 1)]) == 0
    assert main(["disc", "--epochs", "1", "--runs", "2", "--seed", str(2**64 - 1)]) == 2
    assert "2**64 - 1" in capsys.readouterr().err


def test_check(capsys: Capture) -> None:
    pytest.importorskip("hotgrad.testing.cli")
    assert main(["check", "Mul"]) == 0
    assert capsys.readouterr().out


def test_gaps_are_filled_with_the_mean(capsys: Capture) -> None:
    x, names = experiments.features({"a": ["1", "", "3", "NA"], "b": ["x", "y", "x", "x"]})
    assert names == ["a", "b=x", "b=y"]
    assert x.tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0], [2, 1, 0]]
    assert experiments.features({"a": ["1", "inf", "3"], "b": ["", "", ""]})[0].tolist() == [[1], [2], [3]]
    said = capsys.readouterr().out
    assert "column 'a': 2 cells" in said
    assert "column 'a': 1 cells" in said
    assert "column 'b' is left out" in said
    with pytest.raises(DataError):
        experiments.targets(["1", ""], "y")


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "hotgrad", "disc", "--epochs", "1"], capture_output=True, text=True, check=True)
    assert "engine eager" in done.stdout
