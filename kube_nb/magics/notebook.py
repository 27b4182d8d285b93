"""`%kube_notebook`: a whole notebook as a job."""

from __future__ import annotations

import secrets
from typing import Any

from IPython.core.magic import line_magic, magics_class, no_var_expand

from kube_nb.magics.base import KubeMagics, helped, options_of
from kube_nb.magics.flags import KERNEL, NOTEBOOK, NOTEBOOK_OPTIONS

FLAGS = (*NOTEBOOK_OPTIONS, *NOTEBOOK, *KERNEL)


@magics_class
class NotebookMagics(KubeMagics):
    """Sends notebooks."""

    @line_magic
    @no_var_expand
    @helped("kube_notebook", FLAGS, "Run a notebook as a job; `.` is this notebook, as saved.", words="NOTEBOOK.ipynb")
    def kube_notebook(self, line: str) -> Any:
        """Run a notebook as a job; while it runs, the executed notebook grows at the output path."""
        from kube_nb.errors import BadFlag
        from kube_nb.jobs.card import snapshot
        from kube_nb.magics.draw import Board
        from kube_nb.magics.here import saved_notebook, unsaved
        from kube_nb.magics.place import session_of
        from kube_nb.magics.run import attend, watch
        from kube_nb.notebooks.parameters import gather

        args = self.read(line, FLAGS, words=1)
        if not args.words:
            raise BadFlag(what="there is no notebook to run", next="write %kube_notebook NAME.ipynb, or . for this one")
        path = args.words[0]
        if path == ".":
            path = saved_notebook(self.shell)
            said = unsaved(self.shell, path)
            if said:
                print(said)
        client = self.client(**options_of(args, NOTEBOOK_OPTIONS))
        given = gather(
            files=args.parameters_file or (), yaml=args.parameters_yaml, typed=args.p, raw=args.parameters_raw
        )
        plan = client.plan_notebook(
            path,
            given,
            output=args.output,
            kernel=args.kernel,
            report_mode=bool(args.report_mode),
            html=bool(args.html),
            cell_timeout=args.cell_timeout,
            start_timeout=args.start_timeout,
            session=session_of(self.shell),
        )
        if "dry_run" in args.given:
            return self.rehearsed(plan.dry_run())
        job = plan.submit()
        board = Board(self.shell, secrets.token_hex(4))
        board.draw(snapshot(job))
        job.shared["drawn"] = board.live
        if "job" in args.given:
            self.shell.push({args.values["job"]: job})
        if "detach" in args.given:
            job.grow()
            watch(job, board)
            return job
        attend(self.shell, job, board, on_interrupt=client.on_interrupt, assign=False)
        return job
