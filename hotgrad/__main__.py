"""The command line: `python -m hotgrad` runs the reference experiment; `--help` lists the rest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hotgrad import experiments
from hotgrad.errors import HotgradError


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    top = argparse.ArgumentParser(prog="python -m hotgrad", description="Experiments and checks of hotgrad. Without a command: disc.")
    commands = top.add_subparsers(dest="command", metavar="command")
    disc = commands.add_parser("disc", help="points in and out of a disc, the reference experiment (the default)")
    disc.add_argument("--epochs", type=_count, default=300)
    disc.add_argument("--loss", choices=["mse", "cross-entropy"], default="mse")
    disc.add_argument("--momentum", type=float, default=0.0, help="of SGD (default 0)")
    disc.add_argument("--cosine", action="store_true", help="let the learning rate fall along a cosine")
    disc.add_argument(
        "--runs", type=_count, default=1, metavar="N", help="train N times, with seeds that follow each other: mean and deviation"
    )
    disc.add_argument("--jobs", type=_count, default=1, metavar="N", help="of several runs, train so many at once")
    disc.add_argument("--baselines", action="store_true", help="compare with scikit-learn's classifiers and the same network in torch.nn")
    disc.add_argument("--plot", metavar="FILE", help="draw decision regions and curves (needs matplotlib)")
    disc.add_argument("--seed", type=_seed, default=0)
    digits = commands.add_parser("digits", help="scikit-learn's handwritten digits")
    digits.add_argument("--epochs", type=_count, default=30)
    digits.add_argument("--seed", type=_seed, default=0)
    own = commands.add_parser("csv", help="a table of your own: classification or regression by the target's type")
    own.add_argument("file", metavar="FILE")
    own.add_argument("--target", required=True, metavar="COLUMN")
    own.add_argument("--encoding", help="of the text in it (default: UTF-8, or UTF-16 where it says so)")
    own.add_argument("--epochs", type=_count, default=50)
    own.add_argument("--save", metavar="PATH", help="where to write the model (default: beside the table, .hotgrad)")
    own.add_argument("--seed", type=_seed, default=0)
    check = commands.add_parser("check", help="check the gradients of ops (needs hypothesis)")
    check.add_argument("name", nargs="*", help="ops to check, all by default")
    check.add_argument("--power", action="store_true", help="plant wrong rules and see that they are caught")
    check.add_argument("--native", action="store_true", help="compare native forms with forward too (needs a C compiler)")
    return top


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**64:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**64 - 1; got {text}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for a failed check, 2 for bad input, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["disc", *given]
    args = parser().parse_args(given)
    try:
        if args.command == "disc":
            loss = args.loss.replace("-", "_")
            experiments.disc(args.epochs, loss, args.runs, args.baselines, args.plot, args.seed, args.momentum, args.cosine, args.jobs)
        elif args.command == "digits":
            experiments.digits(args.epochs, args.seed)
        elif args.command == "csv":
            experiments.own_table(args.file, args.target, args.epochs, args.seed, args.save, args.encoding)
        else:
            from hotgrad.testing.cli import main as check  # needs hypothesis, which is optional

            return int(check(args.name, args.power, args.native) or 0)
    except (HotgradError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"{error}; pip install 'hotgrad[test]' brings what this command needs", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"interrupted; {interrupt}" if str(interrupt) else "interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
