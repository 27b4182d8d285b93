"""The supervisor's script: `python -I -S entry.py LOCK`.

Every import here delays the first line of a job, so the packages' own `__init__` files, which serve the kernel, are
passed by: empty packages stand in for them.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    _here = __file__.rpartition("/")[0]
    for _up, _name in enumerate(("kube_nb.backends.local", "kube_nb.backends", "kube_nb")):
        _package = sys.modules[_name] = type(sys)(_name)
        _package.__path__ = [_here.rsplit("/", _up)[0]]

    from kube_nb.backends.local.supervisor import main

    main()
