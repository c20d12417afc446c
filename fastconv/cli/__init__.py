"""The command ``fastconv``: demo, info, filter.

Each command imports what it needs when it runs. Nothing imports this package but ``__main__.py``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

import fastconv
from fastconv.cli.errors import CommandError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own. Returns the exit status; 2 for what can't be done as asked."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except CommandError as error:
        print(f"fastconv {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nfastconv {options.command}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastconv", description=fastconv.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"fastconv {fastconv.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="filter a photo by every method, train a network on digits, draw pictures",
        description="Filters a photo by every method, trains a small network on real digits, and draws pictures of it "
        'all. Takes about two minutes on two cores, and what pip install "fastconv[demo]" brings.',
    )
    demo.add_argument(
        "--out", metavar="DIR", default="fastconv-demo", help="where the pictures go (default: %(default)s)"
    )
    demo.add_argument("--quick", action="store_true", help="a few seconds: small data, and no demand on the accuracy")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="what is installed and in use")
    info.set_defaults(run=_info)

    image = commands.add_parser(
        "filter",
        help="filter an image file",
        description="Correlates an image with a kernel. 8 and 16 bit, grey and colour; PNG, TIFF and JPEG. The result "
        "has the dtype of the image: values beyond its range become its ends, so a slope downwards is black. Alpha "
        "stays as it is.",
    )
    image.add_argument("input", metavar="IN", help="image file")
    image.add_argument("output", metavar="OUT", help="image file, of the format that its suffix says; may be IN")
    image.add_argument(
        "--kernel",
        required=True,
        help="gaussian:SIGMA, box:SIZE, sobel-x, sobel-y, laplacian, or FILE.npy that holds an array of two axes",
    )
    image.add_argument(
        "--boundary",
        choices=("constant", "edge", "symmetric", "reflect", "wrap"),
        default="edge",
        help="what lies beyond the image, as in numpy.pad; constant is black (default: %(default)s)",
    )
    image.add_argument("--method", choices=("auto", *fastconv.METHODS), default="auto", help="(default: %(default)s)")
    image.add_argument("--explain", action="store_true", help="also print the methods, and why one was chosen")
    image.set_defaults(run=_filter)

    for command in (demo, image):
        command.add_argument("--workers", type=_workers, metavar="N", help="threads (default: all cores there are)")
    return parser


def _workers(text: str) -> int:
    try:
        workers = int(text)
    except ValueError:
        workers = 0
    if workers < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; must be a whole number of at least 1")
    return workers


def _demo(options: argparse.Namespace) -> int:
    from fastconv.cli import demo

    return demo.run(options.out, options.quick, options.workers)


def _filter(options: argparse.Namespace) -> int:
    from fastconv.cli import filtering

    filtering.filter_file(
        options.input, options.output, options.kernel, options.boundary, options.method, options.workers,
        options.explain,
    )  # fmt: skip
    return 0


def _info(options: argparse.Namespace) -> int:
    fastconv.show_config()
    versions = []
    for name in ("scipy", "pillow", "tifffile", "tqdm", "matplotlib", "scikit-image", "mlxtend"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    print(f"  packages: {', '.join(versions)}")
    return 0
