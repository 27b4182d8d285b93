"""What all magics share: the settings of the kernel, a client from flags, a job from a name, help."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.magic import Magics

from kube_nb.magics.grammar import Flag, Parsed, asks_for_help, parse, usage

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from kube_nb.client import Client
    from kube_nb.config import Settings
    from kube_nb.jobs.job import Job
    from kube_nb.jobs.submit import DryRun
    from kube_nb.widgets.tables import Table

M = TypeVar("M", bound=Callable[..., Any])


def helped(name: str, flags: Sequence[Flag], summary: str, *, words: str = "") -> Callable[[M], M]:
    """`--help` prints the usage, whatever else the line or the cell says."""

    def decorate(magic: M) -> M:
        @functools.wraps(magic)
        def run(self: Any, line: str, cell: str | None = None) -> Any:
            if asks_for_help(line, flags):
                print(usage(f"%{name}", flags, about=summary, words=words))
                return None
            return magic(self, line) if cell is None else magic(self, line, cell)

        return run  # type: ignore[return-value]

    return decorate


def settings_of(shell: InteractiveShell) -> Settings:
    """The settings as they hold now: files and variables are read anew, what `%kube_config` set is kept."""
    from kube_nb.config import Settings
    from kube_nb.jobs.outputs import KERNEL_SETTINGS

    return Settings.load(kernel=getattr(shell, KERNEL_SETTINGS, None))


def keep_settings(shell: InteractiveShell, settings: Settings) -> None:
    """Let what was set for this kernel hold until it ends."""
    from kube_nb.jobs.outputs import KERNEL_SETTINGS

    setattr(shell, KERNEL_SETTINGS, settings.kernel)


def options_of(args: Parsed, flags: Sequence[Flag]) -> dict[str, Any]:
    """The flags of a line as options of a client."""
    return {flag.dest: args.values[flag.dest] for flag in flags if flag.dest in args.given}


class KubeMagics(Magics):
    """What every magic does with its line."""

    shell: InteractiveShell  # pyright: ignore[reportIncompatibleVariableOverride]  # magics are always of a shell

    def read(self, line: str, flags: Sequence[Flag], **how: Any) -> Parsed:
        """The words of a line; `{expr}` in a flag's value is evaluated with the kernel's own names.

        Raises:
            BadFlag: the line does not follow the grammar.
        """
        names = self.shell.user_ns
        return parse(line, flags, lambda expression: eval(expression, self.shell.user_global_ns, names), **how)

    @staticmethod
    def rehearsed(found: DryRun) -> Table:
        """What `--dry-run` shows."""
        from kube_nb.widgets.tables import Table

        if found.manifests:
            print(found.manifests)
        return Table(("", ""), found.rows, caption="Nothing was sent.")

    def client(self, **options: Any) -> Client:
        """The client for what a line asks for."""
        from kube_nb.client import Client

        return Client(settings=settings_of(self.shell), **options)

    def job(self, args: Parsed) -> Job:
        """The job a line names: a variable that holds one, an id, a name, a unique prefix, or nothing for the last one.

        Raises:
            NotFound: there is none.
        """
        from kube_nb.jobs.job import Job

        word = args.words[0] if args.words else None
        held = self.shell.user_ns.get(word) if word is not None else None
        if isinstance(held, Job):
            return held
        return self.client(on=args.values.get("on")).job(word)
