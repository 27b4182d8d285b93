"""The papermill engine `kube-nb`: `papermill in.ipynb out.ipynb --engine kube-nb` runs the notebook as a job.

papermill loads every engine at its own import, so this module imports papermill and the standard library alone. What
papermill decides (parameters, progress bar, when it saves, what is an error, exit codes) stays papermill's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from papermill.engines import Engine

if TYPE_CHECKING:
    from papermill.engines import NotebookExecutionManager


class KubeNbEngine(Engine):
    """Runs a notebook that papermill has prepared as a job. Options of a job are given as further arguments.

    Example:
        >>> papermill.execute_notebook("in.ipynb", "out.ipynb", engine_name="kube-nb", gpus=1)  # doctest: +SKIP
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **kwargs: Any) -> None:
        """Send the notebook, and let papermill's manager hear what becomes of each cell.

        Raises:
            DeadKernelError: the kernel died, as with papermill itself.
            CellTimeoutError: a cell took too long.
            KubeNbError: the job could not be sent, or did not run to its end.
        """
        from kube_nb.engine.managed import run

        run(nb_man, kernel_name, **kwargs)
