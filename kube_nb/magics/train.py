"""`%%kube_train`: this cell, or one call, as a job."""

from __future__ import annotations

from typing import Any

from IPython.core.magic import line_cell_magic, magics_class, no_var_expand

from kube_nb.magics.base import KubeMagics, helped, options_of
from kube_nb.magics.flags import KERNEL, SUBMIT

FLAGS = (*SUBMIT, *KERNEL)


@magics_class
class TrainMagics(KubeMagics):
    """Sends cells and calls."""

    @line_cell_magic
    @no_var_expand
    @helped("kube_train", FLAGS, "Run this cell, or the call after the flags, as a job and bring its results back.")
    def kube_train(self, line: str, cell: str | None = None) -> Any:
        """Run this cell, or the call after the flags, as a job and bring its results back."""
        from kube_nb.capture.work import Work
        from kube_nb.errors import BadFlag
        from kube_nb.magics.place import place_of, session_of
        from kube_nb.magics.run import attend, send, watch
        from kube_nb.spec import Task

        shell = self.shell
        args = self.read(line, FLAGS, rest=cell is None)
        body = cell if cell is not None else args.rest
        if cell is None and not body.strip():
            raise BadFlag(what="there is nothing to run", next="write the call after the flags")
        place = place_of(shell, body)
        client = self.client(**options_of(args, SUBMIT))
        work = Work(
            source=body,
            namespace=shell.user_ns,
            task=Task(kind="cell", label=place.label),
            filename=place.filename,
            first_line=place.first_line,
            text=place.text,
            transform=shell.transform_cell,
            returns=cell is None,
            notebook=session_of(shell),
        )
        if args.given & {"dry_run"}:
            return self.rehearsed(client.plan(work).dry_run())
        detached = "detach" in args.given
        job, board = send(shell, client, work, detached=detached)
        if "job" in args.given:
            shell.push({args.values["job"]: job})
        if detached:
            watch(job, board)
            job.shared["drawn"] = board.live
            return job
        return attend(shell, job, board, on_interrupt=client.on_interrupt)
