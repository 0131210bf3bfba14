"""--linuxsync-vm: the tests run in guests, and pytest-xdist does nearly all of it.

xdist starts its workers through execnet, which starts Python and talks to it by stdin and stdout. `linuxsync vm python`
is a Python, but for the kernel it runs on; so a guest is a worker like any other, and reports come back as from those.
What is left to do here: build the kernel while people see the progress, boot the guests at once and not one after the
other, tell what became of a guest that was lost, and end all of them whatever ends pytest.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from .._fd import OwnedFd
from .worker import USAGE

INSTALL = "pip install 'linuxsync[vm,pytest]'"
# Of pytest's own variables these are about one process.
NOT_PASSED = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST_")
PRINTED = re.compile(r"\[ *\d+\.\d+\] |\.\.\. \d+ more lines in the console log$")
RESTARTS = 4  # for each guest, as xdist has it for -n
MOMENT = 1.0  # seconds that a guest takes that has been told to end
END_LIMIT = 10.0  # and at most
# A guest's own, which it may write: pytest-cov brings the data from there, and else it would be in the current folder,
# where Hypothesis keeps its examples, too.
IN_GUEST = {"COVERAGE_FILE": "/tmp/linuxsync-coverage/data", "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis"}
# What -m would do, but a folder linuxsync or a file click.py in the current folder is not meant.
START = "import sys; sys.path[:] = filter(None, sys.path); from linuxsync.cli import main; main(prog_name='linuxsync')"


class Log:
    """What a guest says on stderr, in a file beside which its process is noted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told = 0  # what was said before here has been told

    def news(self) -> str:
        """What has been said since the last call."""
        try:
            text = self.path.read_bytes()[self.told :]
        except FileNotFoundError:
            return ""
        self.told += len(text)
        return text.decode(errors="replace").rstrip()

    def pid(self) -> int | None:
        """The process that the guest hangs on, while it runs."""
        try:
            pid = int(self.path.with_suffix(".pid").read_text())
            # It is a child of ours, so that its number is nobody else's until it has been waited for.
            return pid if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None else None
        except (FileNotFoundError, ValueError, ChildProcessError):
            return None


class Guests:
    """The guests of a run, in the process that people started."""

    def __init__(self, config: pytest.Config) -> None:
        check(config)
        self.config = config
        self.booting: dict[int, Future[Any]] = {}
        self.collected: set[str] = set()  # guests that have found the tests
        self.said: list[tuple[str, str]] = []  # lines, each with the test after which it was there
        self.lost = ""
        self.caught: list[signal.Signals] = []
        words: list[str] = list(config.getini("linuxsync_vm_options"))
        kernel = config.getoption("linuxsync_kernel")
        if kernel is not None:
            words += ["--kernel", str(kernel)]
        self.words = words
        count = len(config.option.tx) if config.option.numprocesses else 1
        names = [name for name in os.environ if name.startswith("PYTEST_") and not name.startswith(NOT_PASSED)]
        env = [f"--env={name}" for name in names] + [f"--env={name}={value}" for name, value in IN_GUEST.items()]
        guest = [*program(), "vm", "--quiet", *words, *env, "python"]
        folder = run_folder(config)
        self.logs: dict[str, Log] = {}  # by the commands that start the guests
        for number in range(count):
            log = Log(folder / f"{number}.stderr")
            # execnet leaves stderr alone, and there a lost guest says why.
            script = 'echo $$ >"${0%.stderr}.pid"; exec "$@" 2>>"$0"'
            self.logs[shlex.join(["sh", "-c", script, str(log.path), *guest])] = log
        for command in self.logs:
            if "//" in command:
                raise pytest.UsageError(f"pytest-xdist can't have // in a command: {command}")
        config.option.tx = [f"popen//python={command}" for command in self.logs]
        if config.option.dist == "no":
            config.option.dist = "load"
        if config.option.maxworkerrestart is None:
            config.option.maxworkerrestart = str(RESTARTS * count)

    def pytest_report_header(self) -> list[str]:
        """How many, and how."""
        count = len(self.config.option.tx)
        number = "a guest" if count == 1 else f"{count} guests"
        lines = [f"linuxsync: tests run in {number} (linuxsync vm {shlex.join(self.words)}".rstrip() + ")"]
        if self.config.getoption("capture") == "no":
            lines.append("linuxsync: -s shows nothing of tests in a guest, as with pytest-xdist anywhere")
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Have the kernel built before anything waits for a guest."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            # As Ctrl-C. Not where somebody else has a use for it, or, as nohup, none.
            if signal.getsignal(number) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
                signal.signal(number, signal.default_int_handler)
                self.caught.append(number)
        command = [*program(), "vm", *self.words, "kernel", "build"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as building:
            try:
                status = building.wait()
            except BaseException:
                building.terminate()
                raise
        if status:
            raise pytest.UsageError(f"no kernel for the guest: {shlex.join(command)} ended with {status}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: list[Any]) -> None:
        """Begin to boot all of them: xdist would wait for the first before it starts the second."""
        group = config.pluginmanager.getplugin("dsession").nodemanager.group
        make = group.makegateway
        starting = ThreadPoolExecutor(max_workers=len(specs))
        self.booting = {id(spec): starting.submit(make, spec) for spec in specs}
        starting.shutdown(wait=False)

        def made(spec: Any) -> Any:
            booting = self.booting.pop(id(spec), None)
            return make(spec) if booting is None else booting.result()

        group.makegateway = made

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        """Stop if the guest did not come up; execnet takes that for a worker that has nothing to say."""
        try:
            gateway.remote_status()
        except OSError:
            raise pytest.UsageError(f"no guest:\n{self.logs[gateway.spec.python].news()}") from None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """Take down that this guest is of use."""
        self.collected.add(node.gateway.id)

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take down what a lost guest said; one that has not even found the tests is not booted again."""
        bring_coverage(self.config, node.gateway.id)
        if wrong := getattr(node, "workeroutput", {}).get(USAGE):
            raise pytest.UsageError(*wrong)
        if not error:
            return
        self.lost = self.logs[node.gateway.spec.python].news()
        if node.gateway.id not in self.collected:
            why = str(error).rstrip().rpartition("\n")[2]  # all of it has been shown
            raise pytest.UsageError(
                f"pytest ended in the guest before it had found the tests: {why}\n{self.lost}".rstrip()
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Tell it with the test that ran."""
        path, _, name = crashitem.partition("::")
        report.location = path, None, name.replace("::", ".")
        report.longrepr = f"the guest was lost while it ran {crashitem}\n{self.lost}".rstrip()
        self.lost = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take down what its guest has said until now, such as what the test printed where nothing is captured."""
        if hasattr(report, "node"):
            self.listen(self.logs[report.node.gateway.spec.python], report.nodeid)

    def listen(self, log: Log, when: str) -> None:
        """Take down what a guest says; what its kernel printed is told with the tests, or is in the log it names."""
        self.said += [(when, line) for line in log.news().splitlines() if not PRINTED.match(line)]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What guests said besides."""
        for log in self.logs.values():
            self.listen(log, "at the end")
        if not self.lost and not self.said:
            return
        terminalreporter.section("stderr of the guests")
        if self.lost:
            terminalreporter.write_line(self.lost)
        for when, lines in groupby(self.said, key=itemgetter(0)):
            terminalreporter.write_line(f"{when}:")
            for _, line in lines:
                terminalreporter.write_line(f"  {line}")

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """End them now; xdist, which ends its runs with an exception of this kind, would wait for them."""
        if excinfo.type is KeyboardInterrupt:
            self.end()

    def pytest_unconfigure(self) -> None:
        """Nothing is left behind."""
        self.end()
        for number in self.caught:
            signal.signal(number, signal.SIG_DFL)

    def end(self) -> None:
        """End what still runs."""
        # Ctrl-C has told them, too, and a second signal would disturb how they end.
        if self.run_longer_than(MOMENT):
            for log in self.logs.values():
                if pid := log.pid():
                    os.kill(pid, signal.SIGTERM)
            self.run_longer_than(END_LIMIT)

    def run_longer_than(self, seconds: float) -> bool:
        """Whether one of them does."""
        until = time.monotonic() + seconds
        while any(log.pid() for log in self.logs.values()):
            if time.monotonic() > until:
                return True
            time.sleep(0.02)
        return False


def bring_coverage(config: pytest.Config, guest: str) -> None:
    """Put what pytest-cov has brought from a guest where it looks for it: beside its own data file."""
    plugin = config.pluginmanager.getplugin("_cov")
    if plugin is None or plugin.cov_controller is None:
        return
    target = Path(plugin.cov_controller.cov.config.data_file).absolute()
    for path in Path.cwd().glob(f".coverage.*.{os.getpid()}.*.{guest}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target.with_name(target.name + path.name.removeprefix(".coverage")))


def run_folder(config: pytest.Config) -> Path:
    """A folder until this run ends, among those of `linuxsync vm`, which removes what killed runs have left there."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    runs = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "linuxsync" / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with locked(runs):  # nobody removes folders now that are not locked yet
            folder = Path(tempfile.mkdtemp(dir=runs, prefix="pytest-"))
            config.add_cleanup(locked(folder).close)
            config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
    except OSError as error:
        raise pytest.UsageError(f"no folder for what guests say: {error}") from None
    return folder


def locked(folder: Path) -> OwnedFd:
    """Lock a folder, as `linuxsync vm` locks those in use, until this is closed."""
    owner = OwnedFd._taking(os.open, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(owner, fcntl.LOCK_EX)
    return owner


def check(config: pytest.Config) -> None:
    """Refuse what can't be.

    Raises:
        pytest.UsageError: xdist is missing, or an option can't reach into a guest.
    """
    plugins = config.pluginmanager
    if not plugins.hasplugin("xdist"):
        if plugins.is_blocked("xdist"):
            raise pytest.UsageError("--linuxsync-vm takes pytest-xdist to bring reports back: leave out -p no:xdist")
        raise pytest.UsageError(f"--linuxsync-vm takes pytest-xdist to bring reports back: {INSTALL}")
    if config.getoption("usepdb") or config.getoption("trace", False):
        raise pytest.UsageError(
            "--pdb and --trace can't reach into a guest; try: linuxsync vm shell, and pytest --pdb in it"
        )
    if config.option.numprocesses == 0:
        raise pytest.UsageError("--linuxsync-vm with -n 0 leaves no guest to run tests in")
    if config.option.tx and not config.option.numprocesses:
        raise pytest.UsageError("--linuxsync-vm and --tx both say where tests run: leave one out")
    for argument in [] if config.option.pyargs else config.args:
        # As pytest would in the guest, but before it is booted.
        if not (config.invocation_params.dir / argument.partition("[")[0].partition("::")[0]).exists():
            raise pytest.UsageError(f"file or directory not found: {argument}")


def program() -> list[str]:
    """How linuxsync is started, by this Python."""
    script = Path(sys.executable).parent / "linuxsync"
    return [str(script)] if shutil.which(script) else [sys.executable, "-c", START]
