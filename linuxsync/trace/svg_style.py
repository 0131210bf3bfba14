"""How a picture of a recording is coloured and hatched, in light and in dark."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["HUES", "definitions", "style"]

HUES = 5

# As in page/style.css: colours of Okabe and Ito, for light and for dark.
COLOURS = {
    "bg": ("#ffffff", "#14171c"),
    "band": ("#f5f7f9", "#191d23"),
    "line": ("#c9d1d9", "#3a424d"),
    "grid": ("#e8ecf0", "#232931"),
    "text": ("#1a1f26", "#e8ecf1"),
    "muted": ("#57606c", "#9aa5b3"),
    "link": ("#7d00b3", "#f0e442"),
    "error": ("#c83200", "#ff7a45"),
    "wait": ("#b3bdc9", "#4b5664"),
    "edge": ("#5f6a77", "#97a3b2"),
    "on": ("#ffffff", "#0d1116"),
    "h0": ("#0067a5", "#5ab4ea"),
    "h1": ("#00755a", "#2cc197"),
    "h2": ("#a23a78", "#e391bf"),
    "h3": ("#8a5a00", "#e8a936"),
    "h4": ("#4b4fae", "#a3a7f7"),
}


def style() -> str:
    """Classes for light, and those for dark where that is preferred; plain ones, which every renderer knows."""

    def rules(dark: int) -> str:
        each: Callable[[str], str] = lambda name: COLOURS[name][dark]  # noqa: E731
        fills = "".join(f".linuxsync .{name}{{fill:{pair[dark]}}}" for name, pair in COLOURS.items())
        strokes = {"grid": "grid", "line": "line", "edges": "edge", "ticks": "muted", "cross": "bg", "link": "link"}
        lines = "".join(f".linuxsync .{name}{{fill:none;stroke:{each(colour)}}}" for name, colour in strokes.items())
        lines += f".linuxsync .head{{fill:{each('link')}}}"
        for name in (*(f"h{hue}" for hue in range(HUES)), "wait"):
            colour = each("edge" if name == "wait" else name)
            lines += f".linuxsync .never-{name}{{fill:url(#linuxsync-{name})}}.linuxsync .tile-{name}{{fill:{colour}}}"
            lines += f".linuxsync .lines-{name}{{stroke:{colour}}}"
        return fills + lines

    more = ".linuxsync .cross,.linuxsync .lines{stroke-width:1.8}.linuxsync .link{stroke-width:1.4}"
    return f"<style>{rules(0)}{more}@media (prefers-color-scheme:dark){{{rules(1)}}}</style>"


def definitions() -> str:
    """Hatches: what never signaled is told from the rest without its colour."""
    tiles = [
        f'<pattern id="linuxsync-{name}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect class="tile-{name}" width="8" height="8" opacity=".22"/>'
        f'<path class="lines lines-{name}" d="M-8 8L0 0M0 8L8 0M8 8L16 0M-1 1L1 -1M7 9L9 7"/></pattern>'
        for name in (*(f"h{hue}" for hue in range(HUES)), "wait")
    ]
    return f"<defs>{''.join(tiles)}</defs>"
