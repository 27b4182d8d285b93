"""Jobs by name: `%kube_jobs`, `%kube_logs`, `%kube_attach`, `%kube_cancel`, `%kube_delete`, `%kube_rerun`."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from IPython.core.magic import line_magic, magics_class, no_var_expand

from kube_nb.magics.base import KubeMagics, helped
from kube_nb.magics.flags import ALL_USERS, FOLLOW, FORCE_LOST, ON, RANK
from kube_nb.magics.grammar import Flag

JOBS = (ON, ALL_USERS, Flag(names=("--all",), kind="switch", help="all of them, not the newest 50 alone"))
LOGS = (ON, FOLLOW, RANK)
ONE = (ON,)
CANCEL = (ON, FORCE_LOST)
_NEWEST = 50


@magics_class
class JobMagics(KubeMagics):
    """Finds jobs again."""

    @line_magic
    @no_var_expand
    @helped("kube_jobs", JOBS, "List your jobs, the newest first.")
    def kube_jobs(self, line: str) -> Any:
        """List your jobs, the newest first."""
        from kube_nb.jobs.listing import HEADINGS, rows
        from kube_nb.widgets.tables import Table

        args = self.read(line, JOBS)
        client = self.client(on=args.values.get("on"))
        statuses = client.statuses(all_users="all_users" in args.given)
        shown = statuses if "all" in args.given else statuses[:_NEWEST]
        more = len(statuses) - len(shown)
        after = f"and {more} older ones: %kube_jobs --all" if more else ""
        return Table(HEADINGS, rows(shown), caption=client.backend.where, after=after)

    @line_magic
    @no_var_expand
    @helped("kube_logs", LOGS, "Print what a job printed: %kube_logs [JOB] [-f].", words="[JOB]")
    def kube_logs(self, line: str) -> None:
        """Print what a job printed; with `-f`, go on until it has ended."""
        args = self.read(line, LOGS, words=1)
        job = self.job(args)
        rank = args.values.get("rank")
        try:
            for text in job.logs(follow="follow" in args.given, rank=None if rank is None else int(rank)):
                sys.stdout.write(text)
        except KeyboardInterrupt:
            print(f"\nno longer followed: job {job.id} goes on")

    @line_magic
    @no_var_expand
    @helped("kube_attach", ONE, "Replay a job from its first line, follow it, and bind its names.", words="[JOB]")
    def kube_attach(self, line: str) -> Any:
        """Replay a job from its first line, follow it, and bind its names."""
        from kube_nb.magics.draw import Board
        from kube_nb.magics.run import attend

        args = self.read(line, ONE, words=1)
        job = self.job(args)
        return attend(self.shell, job, Board(self.shell, secrets.token_hex(4)), assign=job.entry is not None)

    @line_magic
    @no_var_expand
    @helped("kube_cancel", CANCEL, "Ask a job to end: SIGTERM, grace, SIGKILL.", words="[JOB]")
    def kube_cancel(self, line: str) -> Any:
        """Ask a job to end and wait until it has: SIGTERM, grace, SIGKILL."""
        args = self.read(line, CANCEL, words=1)
        job = self.job(args)
        job.cancel(force_lost="force_lost" in args.given)
        return job.wait()

    @line_magic
    @no_var_expand
    @helped("kube_delete", ONE, "Remove a job and all that is left of it.", words="[JOB]")
    def kube_delete(self, line: str) -> None:
        """Remove a job, its log and its results; a live one is cancelled first."""
        args = self.read(line, ONE, words=1)
        job = self.job(args)
        self.client(on=args.values.get("on")).delete(job)
        print(f"job {job.id} was deleted")

    @line_magic
    @no_var_expand
    @helped("kube_rerun", ONE, "Run a job again with what it was sent with.", words="[JOB]")
    def kube_rerun(self, line: str) -> Any:
        """Run a job again with what it was sent with; `--env` values are those of this kernel."""
        from kube_nb.magics.draw import Board
        from kube_nb.magics.run import attend

        args = self.read(line, ONE, words=1)
        again = self.client(on=args.values.get("on")).rerun(self.job(args))
        return attend(self.shell, again, Board(self.shell, secrets.token_hex(4)))
