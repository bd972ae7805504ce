"""`tcgx bench plots FOLDER`: draws all pictures again from the results of a folder, without measuring.

Also the one that no benchmark draws alone, `headline.png`: tcgx beside the usual design, from `million`, `baseline` and
`http` of the same machine.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench import plot_style, result
from bench.append import AppendResult
from bench.archive import ArchiveResult
from bench.baseline import BaselineResult
from bench.http import HttpResult
from bench.latency import LatencyResult
from bench.match import MatchResult
from bench.million import MillionResult
from bench.overload import OverloadResult
from bench.plot_style import BAR_INCHES, Bar, Format, Head, Sheet, rated
from bench.reads import ReadsResult
from bench.result import Result
from bench.scale import ScaleResult
from bench.soak import SoakResult
from bench.streams import StreamsResult
from core.errors import StartError
from core.model import COMMANDS_MAX

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: Mapping[str, type[Result]] = {
    "append": AppendResult,
    "archive": ArchiveResult,
    "baseline": BaselineResult,
    "http": HttpResult,
    "latency": LatencyResult,
    "streams": StreamsResult,
    "match": MatchResult,
    "million": MillionResult,
    "overload": OverloadResult,
    "reads": ReadsResult,
    "scale": ScaleResult,
    "soak": SoakResult,
}
HEADLINE = "headline"
HEADLINE_OF = ("million", "baseline", "http")


class Named(msgspec.Struct):
    """The field that says of which benchmark a result is."""

    bench: str


def read(path: Path) -> Result:
    """The result in a file.

    Raises:
        StartError: there is none in it.
    """
    try:
        text = path.read_bytes()
        name = msgspec.json.decode(text, type=Named).bench
        if name not in KINDS:
            raise StartError(f"{path}: bench={name!r} is none of {', '.join(KINDS)}")
        return msgspec.json.decode(text, type=KINDS[name])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path} holds no result of a benchmark: {error}") from error


def headline(million: MillionResult, baseline: BaselineResult, http: HttpResult) -> "Figure":
    """tcgx beside the usual design: a million orders, and orders one by one.

    Raises:
        StartError: they were measured on different machines, or with another durability.
    """
    if len({(one.machine.cores, one.machine.cpu, one.durability) for one in (million, baseline, http)}) > 1:
        raise StartError(f"{', '.join(HEADLINE_OF)} are of different machines or durability: nothing to compare")
    with plot_style.style():
        sheet = Sheet(_head(million, baseline, http), million.conditions())
        (upper,), (lower,) = sheet.panels(2, 1, inches=0.75 + 6.4 * BAR_INCHES, height_ratios=(3, 2))
        upper.set_title(f"{million.orders:,} orders, until the last row is in SQL")
        sheet.bars(upper, [[bar] for bar in _whole_way(million, baseline)])
        lower.set_title("Orders one by one over HTTP, per second")
        ours, other = http.requests_per_second, baseline.http_orders_per_second
        sheet.bars(
            lower,
            [
                [rated("tcgx, over HTTP", ours, "tcgx", f", {ours / other:,.1f} times")],
                [rated("usual design, over HTTP", other, "other")],
            ],
        )
        return sheet.finish()


def _head(million: MillionResult, baseline: BaselineResult, http: HttpResult) -> Head:
    over_http = million.orders_per_second / baseline.http_orders_per_second
    return Head(
        title=f"tcgx: {million.orders:,} orders in {million.archive_seconds:,.1f} s, "
        f"{over_http:,.0f} times as fast as the usual design",
        subtitle="The usual design: a PostgreSQL transaction an order that locks the card's row. Its seconds are "
        f"those of {million.orders:,} orders at the rate it was measured at. tcgx got batches in REST requests; "
        f"below, one order a request on both sides, {http.connections:,} connections. Everything on disk before it is "
        "answered.",
    )


def _whole_way(million: MillionResult, baseline: BaselineResult) -> list[Bar]:
    others = {"without HTTP": baseline.orders_per_second, "over HTTP": baseline.http_orders_per_second}
    seconds = {f"usual design, {name}": million.orders / rate for name, rate in others.items()}
    return [
        Bar(f"tcgx, batches of {COMMANDS_MAX:,}", million.archive_seconds, "tcgx", _time(million.archive_seconds)),
        *(
            Bar(name, took, "other", f"{_time(took)}, {took / million.archive_seconds:,.0f} times")
            for name, took in seconds.items()
        ),
    ]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:,.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:,} min {rest} s"


def redraw(folder: Path, form: Format = "png") -> list[Path]:
    """Draws every result of a folder, and the headline where its three are there: the pictures it wrote.

    Raises:
        StartError: there is no result, or a file of JSON is none.
    """
    found = {path: read(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise StartError(f"there are no results in {folder}")
    written = []
    for path, one in found.items():
        plot_style.save(result.drawn(one), path.with_suffix(f".{form}"), result.digest(path.read_bytes()))
        written.append(path.with_suffix(f".{form}"))
    three: Any = [found.get(folder / f"{name}.json") for name in HEADLINE_OF]
    if None in three:
        return written
    texts = [(folder / f"{name}.json").read_bytes() for name in HEADLINE_OF]
    plot_style.save(headline(*three), folder / f"{HEADLINE}.{form}", result.digest(*texts))
    return [*written, folder / f"{HEADLINE}.{form}"]


def main(arguments: argparse.Namespace) -> int:
    """`tcgx bench plots`.

    Raises:
        StartError: the folder has no results, or a file of JSON that is none.
    """
    for path in redraw(arguments.folder, arguments.format):
        print(f"drew {path}")
    return 0
