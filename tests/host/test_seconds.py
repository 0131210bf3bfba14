"""Numbers of seconds on the command line: finite, from the least to the most that an option takes."""

import click
import pytest

from linuxsync.cli.leaks import leaks
from linuxsync.cli.seconds import DAY, Seconds


@pytest.mark.parametrize("text", ["0.05", "1", "1e3", "86400"])
def test_taken(text):
    """As a float."""
    assert Seconds(0.05).convert(text, None, None) == float(text)


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "-inf", "1e999", "86401", "0.04", "-1", "", "soon"])
def test_refused(text):
    """With the range that is taken, and what was said."""
    with pytest.raises(click.BadParameter) as refused:
        Seconds(0.05).convert(text, None, None)
    assert refused.value.message == f"{text!r} is not a number of seconds from 0.05 to 86400, a day"


def test_another_range():
    """An option may take more, or less, than a day."""
    assert Seconds(most=2 * DAY).convert("100000", None, None) == 100000
    with pytest.raises(click.BadParameter, match=r"from 0 to 5$"):
        Seconds(most=5).convert("6", None, None)


@pytest.mark.parametrize("option", ["--interval", "--for"])
@pytest.mark.parametrize("text", ["nan", "inf", "-1"])
def test_leaks(option, text, capsys):
    """A usage error, before anything is measured."""
    with pytest.raises(SystemExit) as ended:
        leaks([option, text], prog_name="leaks")
    assert ended.value.code == 2
    assert f"Invalid value for '{option}': '{text}' is not a number of seconds from" in capsys.readouterr().err
