"""What all figures share: size, colours, numbers on axes, saving, and how a notebook shows them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import FuncFormatter

from gfo.core.errors import GfoError, check_name, printable, unknown_name
from gfo.core.files import absolute, write_whole

# Okabe and Ito 2008, without yellow, which is faint on white: told apart by colour-blind people too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BLUE, ORANGE, GREEN = COLOURS[:3]
GREY = "#6b7280"
WIDTH, DPI = 7.2, 130  # inches and dots an inch: 936 pixels, about a README's width
SCREEN_DPI = 80  # in notebooks, which store what they show
WIDE_RANGE = 50.0  # largest over smallest value from which an axis is logarithmic

X_AXES = {
    "evaluations": "evaluations (candidates)",
    "forward_tokens": "forward tokens",
    "seconds": "seconds",
}


class Figure(MatplotlibFigure):  # type: ignore[misc]
    """A matplotlib figure that belongs to no window; notebooks show it without pyplot, smaller than files."""

    def __init__(self, height: float, width: float = WIDTH) -> None:
        super().__init__(figsize=(width, height), dpi=SCREEN_DPI, layout="constrained", facecolor="white")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def write(self, path: str | Path | None) -> Figure:
        """Save as PNG, PDF, SVG or whatever the path ends in, unless it is None; the figure.

        Raises:
            GfoError: if the path cannot be written, or ends in no format.
        """
        if path is None:
            return self
        file, kinds = absolute(path, "plot: path"), self.canvas.get_supported_filetypes()
        kind = file.suffix.lstrip(".").lower() or str(rcParams["savefig.format"])
        if kind not in kinds:
            raise GfoError(f"plot: {path}: {unknown_name('format', kind, kinds)}")
        drawn = io.BytesIO()
        with rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}):  # fonts as they are, as journals ask for
            self.savefig(drawn, dpi=DPI, format=kind)
        write_whole(file if file.suffix else file.with_suffix(f".{kind}"), drawn.getvalue(), name="plot")
        return self

    def legend_outside(self, axes: Any, columns: int | None) -> None:
        """The legend of some axes, where it hides nothing: above all panels, or for None on their right."""
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            loc = "outside right upper" if columns is None else "outside upper center"
            self.legend(handles, labels, loc=loc, ncols=columns or 1, frameon=False, fontsize=9)


def text(words: str) -> str:
    """Words of a user, such as a run's name, as matplotlib shows them as they are: it takes dollars for
    formulas, and leaves what begins with "_" out of legends."""
    shown = printable(words, keep="\n").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def tidy(axes: Any) -> None:
    """No frame at the top and on the right, a faint grid, readable ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#d9dde3", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def number_axis(axis: Any, largest: float) -> None:
    """Ticks such as 2,500; in thousands (250k) or millions (2.5M) where the largest value is that large."""
    size, unit = (1e6, "M") if largest >= 2e6 else (1e3, "k") if largest >= 1e4 else (1.0, "")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:,.6g}{unit if value else ''}"))


def log_where_wide(axes: Any, values: Sequence[float]) -> bool:
    """Make the y axis logarithmic if the values are positive and span a wide range; whether it is.

    One value far below or above all others does not stretch it: the line leaves the panel there.
    """
    found = sorted({value for value in values if math.isfinite(value)})
    wide = bool(found) and found[0] > 0 and found[-1] / found[0] > WIDE_RANGE
    if wide:
        axes.set_yscale("log")
        _leave_out(axes, found)
    return wide


def _leave_out(axes: Any, found: Sequence[float]) -> None:
    """Limits of a logarithmic axis without a lowest or a highest value that is alone, of 5 values or more."""
    low, high = found[0], found[-1]
    if len(found) >= 5 and found[1] / low > WIDE_RANGE:
        axes.set_ylim(bottom=found[1] / 2)
    if len(found) >= 5 and high / found[-2] > WIDE_RANGE:
        axes.set_ylim(top=found[-2] * 2)


def x_values(steps: Sequence[Mapping[str, Any]], x: str) -> list[float]:
    """Where steps lie on an x axis of `X_AXES`.

    Raises:
        GfoError: for an unknown axis, no steps, or tokens where none were counted.
    """
    check_name("x", x, X_AXES)
    if not steps:
        raise GfoError("plot: the run has no steps, or none yet; there is nothing to draw")
    values = [float(step[x]) for step in steps]
    if x == "forward_tokens" and not values[-1]:
        raise GfoError("x = 'forward_tokens': the run counted none; take evaluations or seconds")
    return values


def finite(values: Sequence[Any]) -> list[float]:
    """Those that are numbers: not None, nan or infinite."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]
