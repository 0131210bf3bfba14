"""linuxsync completion: what makes a shell complete linuxsync's commands, options, columns and names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from ..inspect import Process, Scan, scan, sync_files

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["columns", "comms", "completion", "drivers", "files", "item", "pids", "timelines"]

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


@click.command(short_help="Print what makes a shell complete all this")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options, columns, and the names of processes and timelines.

    \b
    For this shell alone:
      bash  eval "$(linuxsync completion bash)"
      zsh   eval "$(linuxsync completion zsh)"
      fish  linuxsync completion fish | source

    \b
    For all to come:
      bash  linuxsync completion bash > ~/.local/share/bash-completion/completions/linuxsync
      zsh   linuxsync completion zsh > ~/.zfunc/_linuxsync, with fpath+=~/.zfunc before compinit in ~/.zshrc
      fish  linuxsync completion fish > ~/.config/fish/completions/linuxsync.fish

    It runs linuxsync for what is to be completed. Nothing is changed, and fences are not polled. bash must be 4.4 or
    newer.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    made = found(click.Group("linuxsync"), {}, "linuxsync", "_LINUXSYNC_COMPLETE")
    # Not made.source(), which starts bash to see whether it is new enough.
    text = made.source_template % made.source_vars()
    # Columns have commas between them, which fish is not to split.
    click.echo(text.replace('(string split "," $completion)', '(string split --max 1 "," $completion)'))


def item(value: str, said: str | None = None) -> CompletionItem:
    """A value, with what a shell shows beside it. Imported late, as only who completes needs it."""
    from click.shell_completion import CompletionItem

    return CompletionItem(value, help=said)


def columns(names: Iterable[str]) -> Complete:
    """What completes -o: A,B,C or +A, one column at a time."""
    known = list(names)

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        before, comma, word = typed.rpartition(",")
        if not comma and word.startswith("+"):
            comma, word = "+", word[1:]
        chosen = before.removeprefix("+").upper().split(",")
        left = [name for name in known if name not in chosen and name.startswith(word.upper())]
        return [item(before + comma + (name.lower() if word.islower() else name)) for name in left]

    return complete


def files(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """What completes the name of a file: the shell does it."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="file")]


def of_scan(find: Callable[[Scan], Iterable[tuple[str, str | None]]]) -> Complete:
    """What completes an option from one look at the machine: values, with what a shell shows beside them."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        try:
            found = dict(find(scan()))
        except OSError:  # nothing is better than a traceback in the middle of a line
            return []
        return [item(value, said) for value, said in sorted(found.items()) if value.startswith(typed)]

    return complete


def holders(look: Scan) -> Iterable[Process]:
    """The processes that hold something, each once."""
    return dict.fromkeys(descriptor.process for descriptor in look.descriptors)


def fences(look: Scan) -> Iterable[tuple[str, str]]:
    """The driver and the timeline of each fence in a sync_file."""
    return ((one.driver_name, one.obj_name) for held in sync_files(look) for one in held.info.fences)


pids = of_scan(lambda look: [(str(one.pid), one.comm) for one in holders(look)])
comms = of_scan(lambda look: [(one.comm, None) for one in holders(look)])
drivers = of_scan(lambda look: [(driver, None) for driver, _ in fences(look)])
timelines = of_scan(lambda look: [(timeline, driver) for driver, timeline in fences(look)])
