"""`python -m kube_nb` is the command `kube-nb`."""

from __future__ import annotations

import sys

from kube_nb.cli import main

if __name__ == "__main__":
    sys.exit(main())
