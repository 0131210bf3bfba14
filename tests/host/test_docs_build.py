"""The site: built without a warning and without a network, with every name, command, request and fixture in it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest
from public_names import MODULES, every_public_name
from sphinx.util.inventory import InventoryFile

from linuxsync import pytest_plugin

ROOT = Path(__file__).parents[2]
MAN = ROOT / "docs/man"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as it is built from this tree: a warning fails, and so does a reference that leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-j", "2", "docs", str(folder)]
    # Whoever would fetch something finds nobody who answers.
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    run = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in nowhere.items()), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def inventory(site: Path) -> dict[str, set[str]]:
    """The names that the site has, by what they are: "py:class", "std:cmdoption"."""
    with (site / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, path: path)
    return {kind: set(names) for kind, names in found.items()}


def test_every_name(inventory: dict[str, set[str]]) -> None:
    """Every name that a module exports is there, and every member of every class."""
    there = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    wanted = {one.name for one in every_public_name()}
    for short in MODULES:
        module = import_module(f"linuxsync.{short}".rstrip("."))
        wanted |= {f"{module.__name__}.{name}" for name in module.__all__}
    assert wanted - there == set()


def test_every_command(site: Path, inventory: dict[str, set[str]]) -> None:
    """Every command that has a man page has a section, and its options are there to be linked to."""
    text = (site / "reference/commands.html").read_text()
    for page in MAN.glob("*.1"):
        assert f'id="{page.stem}"' in text, page.stem
    options = inventory["std:cmdoption"]
    assert {"linuxsync-ps.--confirm", "linuxsync-trace-record.--syscalls", "linuxsync-vm.--kernel"} <= options


def test_every_request(site: Path) -> None:
    """Every ioctl that the code declares is in the table, and nearly all are named by who issues them."""
    text = (site / "reference/requests.html").read_text()
    declared = re.findall(r"const unsigned long (\w+)", (ROOT / "native/uapi.pxd").read_text())
    for name in declared:
        assert name.replace("LS_IOCTL_", "DRM_IOCTL_").removesuffix("_B") in text, name
    assert text.count("(inside)") <= 14


def test_every_fixture(site: Path) -> None:
    """Fixtures, options and ini values of the pytest plugin are told of."""
    text = (site / "reference/pytest.html").read_text()
    source = Path(pytest_plugin.__file__).read_text()
    names = re.findall(r"@pytest\.fixture\ndef (\w+)", source) + re.findall(r'add(?:option|ini)\(\s*"([\w-]+)"', source)
    assert len(names) >= 12
    for name in names:
        assert name in text, name


class Words(HTMLParser):
    """What is left of Markdown and of reStructuredText in the text of a page, outside of code."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = 0
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Code begins."""
        self._inside += tag in ("code", "pre", "script", "style", "dt")

    def handle_endtag(self, tag: str) -> None:
        """Code ends."""
        self._inside -= tag in ("code", "pre", "script", "style", "dt")

    def handle_data(self, data: str) -> None:
        """Text."""
        if not self._inside:
            self.found += re.findall(r"``|:py:\w+:|\{py:\w+\}|(?<!\w)\*\*|^\.\. \w+::", data)


def test_nothing_is_raw(site: Path) -> None:
    """No page shows markup that was to mean something."""
    for page in site.rglob("*.html"):
        words = Words()
        words.feed(page.read_text())
        assert words.found == [], page.relative_to(site)


def test_nothing_from_elsewhere(site: Path) -> None:
    """No page loads anything from another machine: it can be read without a network."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert re.findall(r"""<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="https?:""", text) == []
