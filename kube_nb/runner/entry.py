"""The `main.py` of a runner object: process 1 of a node starts here, isolated from the user's own packages."""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from _kube_nb_job.runner.node import main  # pyright: ignore[reportMissingImports]

    main()
