"""The flags, declared once and shared by every magic and command."""

from __future__ import annotations

from kube_nb.magics.grammar import Flag
from kube_nb.notebooks.parameters import value_of

ON = Flag(names=("--on",), metavar="TARGET[/NAMESPACE]", help="where: local, in-cluster, a named target or a context")
JOB_NAME = Flag(names=("--name",), metavar="NAME", help="the name of the job")

TARGET = (ON, Flag(names=("--namespace",), metavar="NAME", help="namespace on a cluster"))
VALUES = (
    Flag(names=("-i", "--send"), kind="list", metavar="NAMES", help="send only these names"),
    Flag(names=("-x", "--keep"), kind="list", metavar="NAMES", help="keep these names here"),
    Flag(
        names=("-o", "--outputs"),
        kind="list",
        metavar="NAMES",
        help="bring back exactly these, whatever their size; none: nothing. Default: what was assigned or changed",
    ),
    Flag(names=("--include",), kind="list", metavar="GLOB", help="files beside the notebook that travel"),
    Flag(names=("--collect",), kind="list", metavar="GLOB", help="files the job wrote that come back"),
)
RESOURCES = (
    Flag(names=("--gpus",), metavar="N[:RESOURCE]", help="GPUs of each node, e.g. 1 or 2:amd.com/gpu"),
    Flag(
        names=("--gpu-product",),
        kind="list",
        metavar="NAMES",
        help="models of which one will do, as the nodes' labels call them (cluster only)",
    ),
    Flag(names=("--cpu",), metavar="CORES", help="cores of each node, e.g. 0.5 or 4"),
    Flag(names=("--memory",), metavar="SIZE", help="memory of each node, e.g. 4Gi"),
    Flag(names=("--shm",), metavar="SIZE", help="size of /dev/shm (default: within the memory; cluster only)"),
    Flag(names=("--disk",), metavar="SIZE", help="the node's own disk that the job may fill (cluster only)"),
    Flag(names=("--nodes",), metavar="N", help="nodes (default 1)"),
    Flag(names=("--procs",), metavar="N", help="processes on each node (default 1)"),
    Flag(names=("--image",), metavar="IMAGE", help="container image (cluster only)"),
    Flag(names=("--packages",), kind="list", metavar="REQUIREMENTS", help="packages installed before the code starts"),
    Flag(names=("--env",), kind="pair", metavar="NAME[=VALUE]", help="variables of the job; secret; repeat for more"),
    Flag(
        names=("--secret",),
        kind="list",
        metavar="NAME[:/path]",
        help="Secrets of the cluster, as variables, or as files in a folder",
    ),
    Flag(names=("--volume",), kind="list", metavar="CLAIM:/path[:ro]", help="claims of the cluster and where they are"),
    Flag(names=("--node-selector",), kind="list", metavar="LABEL=VALUE", help="labels of a node (cluster only)"),
    Flag(names=("--priority-class",), metavar="NAME", help="of the cluster's; who goes first"),
    Flag(names=("--runtime-class",), metavar="NAME", help="of the cluster's; what runs the containers"),
    Flag(names=("--service-account",), metavar="NAME", help="of the cluster's; its token is in the job"),
    Flag(names=("--queue",), metavar="NAME", help="queue of the cluster"),
    Flag(names=("--via",), metavar="KIND", help="another kind of object that runs the job (cluster only)"),
    Flag(names=("--patch",), kind="list", metavar="FILE", help="what a platform team insists on (cluster only)"),
)
RUNNING = (
    Flag(names=("--retries",), metavar="N", help="failures of the code that are tried again (default 0)"),
    Flag(names=("--timeout",), metavar="DURATION", help="end the code after, e.g. 90s or 1h30m"),
    Flag(names=("--on-interrupt",), choices=("detach", "cancel"), help="what an interrupt does first (default detach)"),
    Flag(names=("--dry-run",), kind="switch", help="show what would be sent and what stands against it"),
    Flag(names=("--session",), metavar="NAME", help="reserved"),
)
KERNEL = (
    Flag(names=("--detach",), kind="switch", help="go on at once; gives the job"),
    Flag(names=("--job",), metavar="NAME", help="bind the job to this variable"),
)
NOTEBOOK = (
    Flag(
        names=("-p",),
        kind="param",
        spaced=True,
        parse=value_of,
        metavar="NAME VALUE",
        help="a parameter of the notebook, typed; repeat for more",
    ),
    Flag(
        names=("-r", "--parameters-raw"),
        kind="param",
        spaced=True,
        raw=True,
        metavar="NAME VALUE",
        help="a parameter that is text, whatever it looks like",
    ),
    Flag(names=("-y", "--parameters-yaml"), metavar="YAML", help="parameters as a mapping"),
    Flag(names=("-f", "--parameters-file"), kind="list", metavar="FILE", help="parameters in a file of YAML or JSON"),
    Flag(names=("--output",), metavar="OUT.ipynb", help="where the executed notebook grows; {name} is a parameter"),
    Flag(names=("--html",), kind="switch", help="keep a rendering of it too"),
    Flag(names=("-k", "--kernel"), metavar="NAME", help="instead of the kernel that the notebook names"),
    Flag(names=("--report-mode",), kind="switch", help="hide the source of the cells"),
    Flag(names=("--cell-timeout",), metavar="DURATION", help="the most that a cell may take"),
    Flag(
        names=("--start-timeout",), metavar="DURATION", default="60s", help="the most that its kernel may take to start"
    ),
)
NOTEBOOK_OPTIONS = (
    *(JOB_NAME, *TARGET, *(flag for flag in VALUES if flag.dest in ("include", "collect"))),
    *(*RESOURCES, *RUNNING),
)
"""What a notebook takes of the flags of everything that submits: it shares no names with the kernel."""
SUBMIT = (JOB_NAME, *TARGET, *VALUES, *RESOURCES, *RUNNING)
FOLLOW = Flag(names=("-f", "--follow"), kind="switch", help="go on until the job has ended")
RANK = Flag(names=("--rank",), metavar="N", help="of this rank alone")
FORCE_LOST = Flag(
    names=("--force-lost",), kind="switch", help="do not wait for nodes that are not heard of; code may go on there"
)
ALL_USERS = Flag(names=("--all-users",), kind="switch", help="everybody's, not one's own alone")
AS_JSON = Flag(names=("--json",), kind="switch", help="for programs")
RBAC = Flag(names=("--rbac",), kind="switch", help="print the least that you must be allowed there, as YAML")
SAVE = Flag(names=("--save",), kind="switch", help="keep it in the user's file")
