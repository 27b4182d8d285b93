"""The shell face: `kube-nb run`, `jobs`, `logs` and so on, the same words as the magics."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kube_nb.errors import KubeNbError
from kube_nb.magics.flags import (
    ALL_USERS,
    AS_JSON,
    FOLLOW,
    FORCE_LOST,
    NOTEBOOK,
    NOTEBOOK_OPTIONS,
    ON,
    RANK,
    RBAC,
    SUBMIT,
)
from kube_nb.magics.grammar import split_list
from kube_nb.magics.typed import typed

if TYPE_CHECKING:
    from kube_nb.client import Client
    from kube_nb.jobs.job import Job
    from kube_nb.jobs.submit import Plan
    from kube_nb.magics.grammar import Flag
    from kube_nb.notebooks.send import NotebookPlan

_USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: it was done; 1: the job failed, or something stands against it; 2: the words are off; 130: interrupted.
    """
    args = _parser().parse_args(_paired(sys.argv[1:] if argv is None else argv))
    try:
        return int(args.run(args) or 0)
    except KubeNbError as error:
        print(f"kube-nb: {error}", file=sys.stderr)
        return 1
    except SyntaxError as error:
        print(f"kube-nb: {error.filename}, line {error.lineno}: {error.msg}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `kube-nb logs x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _paired(argv: Sequence[str]) -> list[str]:
    """The words of a command, where papermill's `-p NAME VALUE` has become `-p NAME=VALUE`."""
    words, rest = [], list(argv)
    while rest:
        words.append(rest.pop(0))
        if argv[0] == "notebook" and words[-1] in ("-p", "-r") and rest:
            name = rest.pop(0)
            words.append(name if "=" in name or not rest else f"{name}={rest.pop(0)}")
    return words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kube-nb", description="Run Python as jobs.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Any], int | None], help: str, flags: Sequence[Flag] = ()) -> Any:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run)
        for flag in flags:
            _add(sub, flag)
        return sub

    run = command("run", _run, "run a Python file as a job and print what it prints", SUBMIT)
    run.add_argument("file", metavar="FILE.py")
    run.add_argument("--detach", action="store_true", help="print the id of the job and leave")
    run.add_argument("--wait", action="store_true", help="nobody watches: an interrupt cancels the job")
    notebook = command("notebook", _notebook, "run a notebook as a job", (*NOTEBOOK_OPTIONS, *NOTEBOOK))
    notebook.add_argument("file", metavar="FILE.ipynb")
    notebook.add_argument("--detach", action="store_true", help="print the id of the job and leave")
    notebook.add_argument("--wait", action="store_true", help="nobody watches: an interrupt cancels the job")
    command("jobs", _jobs, "list your jobs, the newest first", (ON, ALL_USERS, AS_JSON))
    for name, function, help, flags in (
        ("logs", _logs, "print what a job printed", (ON, FOLLOW, RANK)),
        ("attach", _attach, "replay a job from its first line and follow it", (ON,)),
        ("cancel", _cancel, "ask a job to end, and wait until it has", (ON, FORCE_LOST)),
        ("delete", _delete, "remove a job and all that is left of it", (ON,)),
        ("rerun", _rerun, "run a job again with what it was sent with", (ON,)),
    ):
        sub = command(name, function, help, flags)
        sub.add_argument("job", nargs="?", metavar="JOB", help="id, name or unique prefix; default: the last one")
    command("doctor", _doctor, "say what works here and what is missing", (ON, AS_JSON, RBAC))
    clean = command("clean", _clean, "remove your jobs that ended long ago, and what is left of them", (ON, AS_JSON))
    clean.add_argument("--older-than", metavar="DURATION", help="e.g. 12h or 7d; default: the setting retention_days")
    clean.add_argument(
        "--store", action="store_true", help="remove the store that all jobs of the namespace share, with all in it"
    )
    clean.add_argument("--dry-run", action="store_true", help="say which, remove none")
    config = command("config", _config, "show the settings, or save one in your file")
    config.add_argument("pair", nargs="?", metavar="KEY=VALUE")
    return parser


def _add(parser: argparse.ArgumentParser, flag: Flag) -> None:
    if flag.kind == "switch":
        parser.add_argument(*flag.names, dest=flag.dest, action="store_true", default=None, help=flag.help)
    elif flag.kind in ("list", "pair", "param"):
        parser.add_argument(*flag.names, dest=flag.dest, action="append", metavar=flag.metavar, help=flag.help)
    else:
        choices = flag.choices or None
        metavar = flag.metavar or None
        parser.add_argument(*flag.names, dest=flag.dest, metavar=metavar, choices=choices, help=flag.help)


def _client(args: Any, **options: Any) -> Client:
    from kube_nb.client import Client

    return Client(on=args.on, **options)


def _options(args: Any, flags: Sequence[Flag]) -> dict[str, Any]:
    options = {flag.dest: getattr(args, flag.dest) for flag in flags if flag.dest != "on"}
    for flag in flags:
        if flag.kind in ("list", "pair") and options.get(flag.dest) is not None:
            options[flag.dest] = [
                part for text in options[flag.dest] for part in split_list(text, pairs=flag.kind == "pair")
            ]
    return options


def _run(args: Any) -> int:
    client = _client(args, **_options(args, SUBMIT))
    return _send(args, client, client.plan_script(args.file))


def _notebook(args: Any) -> int:
    # Where it is installed, jsonschema builds a grammar of all URIs at import: a second, for a check nobody asks for.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    from kube_nb.errors import BadValue
    from kube_nb.notebooks.parameters import gather, value_of

    def named(texts: Sequence[str] | None, read: Callable[[str], Any]) -> dict[str, Any]:
        pairs = [text.partition("=") for text in texts or ()]
        for name, _, _ in pairs:
            if not name.isidentifier():
                raise BadValue(what=f"`{name}` is not a name of a parameter", next="write -p NAME VALUE")
        return {name: read(value) for name, _, value in pairs}

    client = _client(args, **_options(args, NOTEBOOK_OPTIONS))
    parameters = gather(
        files=args.parameters_file or (),
        yaml=args.parameters_yaml,
        typed=named(args.p, lambda text: value_of(typed(text))),
        raw=named(args.parameters_raw, str),
    )
    plan = client.plan_notebook(
        args.file,
        parameters,
        output=args.output,
        kernel=args.kernel,
        report_mode=bool(args.report_mode),
        html=bool(args.html),
        cell_timeout=args.cell_timeout,
        start_timeout=args.start_timeout or 60,
    )
    return _send(args, client, plan)


def _send(args: Any, client: Client, plan: Plan | NotebookPlan) -> int:
    """Submit what is planned and follow it, or say what would be submitted."""
    if args.dry_run:
        found = plan.dry_run()
        print("nothing was sent")
        for word, text in found.rows:
            print(f"{word:<10} {text}")
        print(found.manifests, end="")
        return 0
    from kube_nb.jobs.card import asked_text

    job = plan.submit()
    if args.detach:
        print(job.id)
        return 0
    print(f"job {job.id} on {job.where}", file=sys.stderr)
    if asks := asked_text(job.asks):
        print(f"asks: {asks}", file=sys.stderr)
    for note in job.entry.notes if job.entry else ():
        print(f"note: {note}", file=sys.stderr)
    on_interrupt = args.on_interrupt or client.settings.get("on_interrupt")
    code = _follow(job, interactive=not args.wait and sys.stdin.isatty(), on_interrupt=on_interrupt)
    if code == 0:
        from pathlib import Path

        for path in job.outputs.save_files(Path.cwd()):
            print(f"came back: {path}", file=sys.stderr)
    return code


def _follow(job: Job, *, interactive: bool, on_interrupt: str = "detach") -> int:
    """Print what a job prints until it has ended; 0 where it succeeded."""
    from kube_nb.jobs.failure import failed
    from kube_nb.jobs.interrupts import Terminated, interrupted, watched
    from kube_nb.spec import Phase

    try:
        with watched(interactive=interactive):
            for line in _lines(job):
                sys.stdout.write(line)
                sys.stdout.flush()
            job.wait()
    except (KeyboardInterrupt, Terminated):
        print(interrupted(job, interactive=interactive, on_interrupt=on_interrupt), file=sys.stderr)
        return 130
    if job.phase is Phase.SUCCEEDED:
        return 0
    exception, reason = job.exception(), job.reason
    if exception is not None:
        print("\n".join(exception._render_traceback_()), file=sys.stderr)  # type: ignore[attr-defined]
    elif reason is not None:
        print(f"kube-nb: {failed(job.id, reason)}", file=sys.stderr)
    return 1


def _lines(job: Job) -> Iterator[str]:
    """What a job prints; of a notebook, stderr is told which cell runs."""
    from kube_nb.notebooks.job import NotebookJob

    if not isinstance(job, NotebookJob):
        yield from job.logs(follow=True)
        return
    for progress, line in job.lines():
        if progress:
            print(line, file=sys.stderr, flush=True)
        else:
            yield line


def _jobs(args: Any) -> None:
    from kube_nb.jobs.listing import HEADINGS, record, rows

    statuses = _client(args).statuses(all_users=bool(args.all_users))
    if args.json:
        print(json.dumps([record(status) for status in statuses], indent=2))
        return
    from kube_nb.widgets.tables import Table

    print(Table(HEADINGS, rows(statuses)).text())


def _logs(args: Any) -> None:
    rank = None if args.rank is None else int(args.rank)
    for line in _client(args).job(args.job).logs(follow=bool(args.follow), rank=rank):
        sys.stdout.write(line)


def _attach(args: Any) -> int:
    return _follow(_client(args).job(args.job), interactive=sys.stdin.isatty())


def _cancel(args: Any) -> None:
    job = _client(args).job(args.job)
    job.cancel(force_lost=bool(args.force_lost))
    print(f"job {job.id} is {job.wait().phase}")


def _delete(args: Any) -> None:
    client = _client(args)
    job = client.job(args.job)
    client.delete(job)
    print(f"job {job.id} was deleted")


def _rerun(args: Any) -> int:
    client = _client(args)
    job = client.rerun(client.job(args.job))
    print(f"job {job.id} on {job.where}", file=sys.stderr)
    return _follow(job, interactive=sys.stdin.isatty())


def _doctor(args: Any) -> int:
    from dataclasses import asdict

    from kube_nb.doctor import examine, to_apply

    client = _client(args)
    if args.rbac:
        print(client.grant(), end="")
        return 0
    checks = examine(client)
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        from kube_nb.widgets.tables import Table

        rows = [(check.name, check.state, check.text) for check in checks]
        print(Table(("check", "state", ""), rows, after=to_apply(checks)).text())
    return int(any(check.state == "error" for check in checks))


def _clean(args: Any) -> None:
    from dataclasses import asdict

    from kube_nb.spec import seconds

    age = None if args.older_than is None else seconds(args.older_than)
    client = _client(args)
    if args.store:
        removed = client.clean_store(dry_run=args.dry_run)
    else:
        removed = client.clean(older_than=age, dry_run=args.dry_run)
    if args.json:
        print(json.dumps([asdict(one) for one in removed], indent=2))
        return
    for one in removed:
        print(one.name if one.kind == "job" else f"{one.kind} {one.name}")
    jobs = sum(one.kind == "job" for one in removed)
    others = f" and {len(removed) - jobs} other things" if len(removed) > jobs else ""
    print(f"{jobs} jobs{others} {'would be' if args.dry_run else 'were'} removed", file=sys.stderr)


def _config(args: Any) -> int | None:
    from kube_nb.config import Settings
    from kube_nb.widgets.tables import Table

    settings = Settings.load()
    if args.pair is None:
        rows = [(row.name, row.value, f"{row.origin.layer} {row.origin.where}".strip()) for row in settings.table()]
        print(Table(("setting", "value", "from"), rows).text())
        return None
    key, equals, value = args.pair.partition("=")
    if not equals:
        print(f"kube-nb: write {key}=VALUE, or {key}= to unset it", file=sys.stderr)
        return _USAGE_ERROR
    settings.save(key, value or None)
    return None
