"""Which settings there are, and how each is read from what a person writes: one table, one name everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kube_nb.errors import BadValue
from kube_nb.spec import Gpu, bytes_of, cores_of, object_name, seconds


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: as it is written everywhere.
        help: one line for a person.
        read: turns what was written (text, or a TOML value) into the value; raises BadValue. In a table: of one entry.
        default: as a person would write it; None: not set.
        depth: 0: a value; 1: a table of values; 2: a table of tables. Entries of tables come from different layers.
        entries: in a table of tables, what an inner table may have.
        as_written: the value is computed from a quantity such as "4Gi", which a person wants to read again.
    """

    name: str
    help: str
    read: Callable[[Any], Any]
    default: Any = None
    depth: int = 0
    entries: Mapping[str, Setting] = field(default_factory=dict[str, "Setting"])
    as_written: bool = False

    @property
    def initial(self) -> Any:
        """The default; one that depends on the platform is found when it is asked for."""
        return self.default() if callable(self.default) else self.default


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadValue(what=f"{_short(value)} is not a text", next="write it in quotes, not empty")
    return value.strip()


def _quantity(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Guards `read` from what is neither text nor a number; True would pass for 1."""

    def guarded(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise BadValue(what=f"{_short(value)} is not a quantity", next="write a number, or text such as 4Gi or 30s")
        return read(value)

    return guarded


def _gpus(value: str | int) -> str:
    gpu = Gpu.parse(value)
    return f"{gpu.count}:{gpu.resource}" if gpu else "0"


def _number(value: str | float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise BadValue(what=f"{_short(value)} is not a number larger than zero")
    return number


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise BadValue(what=f"{_short(value)} is not one of {', '.join(words)}")
        return value

    return read


def _object(what: str) -> Callable[[Any], str]:
    """Reads the name of an object of a cluster."""

    def read(value: Any) -> str:
        return object_name(_text(value), what)

    return read


def _via(value: Any) -> str:
    text = _text(value)
    if text != "trainjob":
        raise BadValue(
            what=f"`{text}` runs no jobs of ours", next="write via=trainjob (Kubeflow Trainer), or leave it out"
        )
    return text


def _store(value: Any) -> str:
    text = _text(value)
    kind, colon, name = text.partition(":")
    if text in ("auto", "none"):
        return text
    if colon and name.startswith("//") and len(name) > 2:
        if ":" in name[2:].partition("/")[0].rpartition("@")[0]:
            raise BadValue(
                what="the URL of the store holds a password",
                why="everybody in the namespace can read where a job's results lie",
                next="leave it out, and send the credentials as variables: --env or pass_env",
            )
        return text
    if kind == "claim" and name:
        return f"claim:{object_name(name, 'a claim')}"
    raise BadValue(
        what=f"{_short(value)} is no store", next="write auto, none, claim:NAME or a URL such as s3://bucket/dir"
    )


def _texts(value: Any) -> tuple[str, ...]:
    """`"a, b"`, `["a", "b"]` or `"[a, b]"`."""
    if isinstance(value, str):
        value = _yaml(value) if value.lstrip().startswith("[") else [v for v in value.split(",") if v.strip()]
    if not isinstance(value, (list, tuple)):
        raise BadValue(what=f"{_short(value)} is not a list", next="write a,b or, in a file, ['a', 'b']")
    return tuple(_text(item) for item in cast("Iterable[Any]", value))


def _tables(value: Any) -> tuple[Mapping[str, Any], ...]:
    """A list of tables, or its YAML."""
    if isinstance(value, str):
        value = _yaml(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise BadValue(what=f"{_short(value)} is not a list of tables")
    return tuple(table_of(item) for item in cast("Iterable[Any]", value))


def _patch(value: Any) -> Mapping[str, Any] | str:
    """A table, its YAML, or the path of a file that holds it."""
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return _text(value)
    return table_of(value)


def _directory(value: Any) -> Path:
    path = Path(value).expanduser() if isinstance(value, (str, Path)) else Path()
    if not path.is_absolute():
        raise BadValue(what=f"{_short(value)} is not an absolute path", next="write it from / or ~ on")
    return path


def _state_dir() -> Path:
    import platformdirs

    return platformdirs.user_state_path("kube-nb", appauthor=False)


def table_of(value: Any) -> Mapping[str, Any]:
    """A table, from a mapping, from YAML (`{a: 1}`) or from pairs (`a=1,b=2`).

    Raises:
        BadValue: it is none.
    """
    if isinstance(value, str):
        if value.lstrip().startswith("{"):
            value = _yaml(value)
        else:
            pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
            if not all(name.strip() and sign for name, sign, _ in pairs):
                raise BadValue(what=f"{_short(value)} is not a table", next="write a=1,b=2 or {a: 1, b: 2}")
            return {name.strip(): entry.strip() for name, _, entry in pairs}
    if not isinstance(value, Mapping):
        raise BadValue(what=f"{_short(value)} is not a table", next="write a=1,b=2 or {a: 1, b: 2}")
    table = cast("Mapping[Any, Any]", value)
    if not all(isinstance(name, str) and name for name in table):
        raise BadValue(what=f"{_short(value)} has an entry without a name")
    return dict(table)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadValue(what=f"{_short(text)} is not YAML", why=str(error).replace("\n", " ")) from None


def _short(value: Any) -> str:
    """The value in an error's sentence: of a table or list only the kind, which may hold what nobody should read."""
    text = str(value) if isinstance(value, (str, int, float)) else type(value).__name__
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


_JOB = (
    Setting(name="namespace", help="namespace on a cluster", read=_text),
    Setting(name="image", help="container image of a job", read=_text),
    Setting(name="cpu", help="cores of a node of a job", read=_quantity(cores_of), as_written=True),
    Setting(name="memory", help="memory of a node of a job", read=_quantity(bytes_of), as_written=True),
    Setting(name="gpus", help="GPUs of a node of a job, e.g. 2 or 2:amd.com/gpu", read=_quantity(_gpus)),
    Setting(name="gpu_product", help="models of GPUs of which one will do", read=_texts, default=()),
    Setting(name="shm", help="size of /dev/shm on a cluster", read=_quantity(bytes_of), as_written=True),
    Setting(name="disk", help="a node's own disk that a job may fill", read=_quantity(bytes_of), as_written=True),
    Setting(name="image_map", help="which image stands in for which", read=_text, default={}, depth=1),
    Setting(name="pull_secret", help="name of the Secret that pulls images", read=_object("a Secret")),
    Setting(name="index", help="package indexes: the first is asked first", read=_texts, default=()),
    Setting(
        name="install",
        help="missing packages: missing (install them) or never",
        read=_one_of("missing", "never"),
        default="missing",
    ),
    Setting(name="node_selector", help="labels that a job's nodes must have", read=_text, default={}, depth=1),
    Setting(name="tolerations", help="tolerations of a job's pods", read=_tables, default=()),
    Setting(name="affinity", help="affinity of a job's pods, as Kubernetes writes it", read=table_of),
    Setting(name="priority_class", help="priority class of a job's pods", read=_object("a priority class")),
    Setting(name="runtime_class", help="runtime class of a job's pods", read=_object("a runtime class")),
    Setting(
        name="service_account",
        help="service account of a job's pods; its token is in them where one is named",
        read=_object("a service account"),
    ),
    Setting(name="queue", help="queue that admits jobs on a cluster", read=_object("a queue")),
    Setting(name="via", help="another kind of object that runs jobs on a cluster: trainjob", read=_via),
    Setting(name="labels", help="labels of a job's objects", read=_text, default={}, depth=1),
    Setting(name="patch", help="changes to a job's objects before they are created", read=_patch),
    Setting(
        name="store",
        help="where a cluster keeps logs, results and checkpoints: auto, none, claim:NAME or a URL",
        read=_store,
        default="auto",
    ),
    Setting(name="storage_class", help="storage class of the store", read=_object("a storage class")),
    Setting(
        name="store_size", help="size of a claim made for it", read=_quantity(bytes_of), default="20Gi", as_written=True
    ),
    Setting(
        name="pass_env",
        help="variables of the kernel that every job gets",
        read=_texts,
        default=("MLFLOW_*", "WANDB_*", "HF_*"),
    ),
    Setting(
        name="return_limit",
        help="size up to which a value comes back unasked",
        read=_quantity(bytes_of),
        default="256MB",
        as_written=True,
    ),
)
"""What a job is made with. A named target may say each of them for the jobs that are sent there."""

_PLACE = (
    Setting(name="context", help="context of the kubeconfig", read=_text),
    Setting(name="kubeconfig", help="file to read it from", read=_text),
)

SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting(
            name="on", help="where jobs run: local, a named target, a kubeconfig context", read=_text, default="local"
        ),
        *_JOB,
        Setting(
            name="on_interrupt",
            help="what the first interrupt does: detach or cancel",
            read=_one_of("detach", "cancel"),
            default="detach",
        ),
        Setting(
            name="compare_budget",
            help="time spent on finding what a job changed in place",
            read=_quantity(seconds),
            default="2s",
            as_written=True,
        ),
        Setting(name="state_dir", help="where jobs are kept on this machine", read=_directory, default=_state_dir),
        Setting(
            name="retention_days", help="finished jobs that are older are removed", read=_quantity(_number), default=7
        ),
        Setting(
            name="retention_bytes",
            help="size from which the oldest finished jobs are removed",
            read=_quantity(bytes_of),
            default="20GB",
            as_written=True,
        ),
        Setting(
            name="targets",
            help="named targets: where each is, and settings for the jobs that are sent there",
            read=_text,
            default={},
            depth=2,
            entries={setting.name: setting for setting in (*_PLACE, *_JOB)},
        ),
    )
}
"""Every setting by its name, in the order in which they are shown."""

OF_NAMESPACE = frozenset(setting.name for setting in _JOB) - {"namespace", "pass_env", "return_limit"}
"""What a namespace may say for all its users: what the cluster's side of a job is made with. Whoever may write there
must not reach into a person's machine: not its files, not its variables, not where its jobs go."""

PLACE_OF_TARGET = frozenset(setting.name for setting in _PLACE)
"""Entries of a named target that are no settings: they say where it is."""


def declared(name: str, where: str = "", *, hint: str = "") -> Setting:
    """The setting of that name.

    Raises:
        BadValue: there is none; names the nearest.
    """
    if name in SETTINGS:
        return SETTINGS[name]
    nearest = near(name)
    raise BadValue(
        what=f"there is no setting `{name}`" + (f" ({where})" if where else ""),
        next=hint or (f"did you mean `{nearest}`?" if nearest else "see %kube_config for all settings"),
    )


def near(name: str, among: Iterable[str] = SETTINGS, likeness: float = 0.6) -> str | None:
    """The name that `name` was probably meant to be."""
    import difflib

    found = difflib.get_close_matches(name.replace("-", "_").lower(), list(among), n=1, cutoff=likeness)
    return found[0] if found else None
