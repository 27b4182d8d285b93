"""The flags, declared once and shared by every magic and command."""

from __future__ import annotations

from kube_nb.magics.grammar import Flag

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
    Flag(names=("--cpu",), metavar="CORES", help="cores of each node, e.g. 0.5 or 4"),
    Flag(names=("--memory",), metavar="SIZE", help="memory of each node, e.g. 4Gi"),
    Flag(names=("--nodes",), metavar="N", help="nodes (default 1)"),
    Flag(names=("--procs",), metavar="N", help="processes on each node (default 1)"),
    Flag(names=("--image",), metavar="IMAGE", help="container image (cluster only)"),
    Flag(names=("--packages",), kind="list", metavar="REQUIREMENTS", help="packages installed before the code starts"),
    Flag(names=("--env",), kind="pair", metavar="NAME[=VALUE]", help="variables of the job; secret; repeat for more"),
    Flag(names=("--secret",), kind="list", metavar="NAME", help="Secrets of the cluster"),
    Flag(names=("--volume",), kind="list", metavar="CLAIM:/path", help="volumes of the cluster"),
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
SUBMIT = (JOB_NAME, *TARGET, *VALUES, *RESOURCES, *RUNNING)
FOLLOW = Flag(names=("-f", "--follow"), kind="switch", help="go on until the job has ended")
RANK = Flag(names=("--rank",), metavar="N", help="of this rank alone")
ALL_USERS = Flag(names=("--all-users",), kind="switch", help="everybody's, not one's own alone")
AS_JSON = Flag(names=("--json",), kind="switch", help="for programs")
SAVE = Flag(names=("--save",), kind="switch", help="keep it in the user's file")
