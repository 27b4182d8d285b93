"""Which variables of the submitting kernel a job finds.

Only what a process needs to work on this machine: everything else must be given with `--env`, so that a cell that runs
here runs on a cluster too, where nothing of the kernel's environment exists.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = frozenset(
    [
        # Who and where one is, and what one's tools read from files there.
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV"),
        "MPLCONFIGDIR",
        # Libraries of the interpreter itself, and of compiled packages.
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        # The network as this site has it.
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        # Where large downloads already lie.
        *("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "TRANSFORMERS_CACHE", "NLTK_DATA"),
    ]
)
_PREFIXES = (
    *("LC_", "XDG_", "CONDA_"),
    # Devices and threads.
    *("CUDA_", "NVIDIA_", "NCCL_", "PYTORCH_", "XLA_", "JAX_", "OMP_", "MKL_", "OPENBLAS_"),
    # Index, cache and offline settings of the installers.
    *("UV_", "PIP_"),
)
_FOR_SUPERVISOR = frozenset(
    [
        # To start an interpreter.
        *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
        # To find a user's systemd.
        *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
    ]
)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a job takes over from the kernel's environment."""
    return {
        name: value
        for name, value in environ.items()
        if name in _NAMES or name.startswith(_PREFIXES) or name.lower().endswith("_proxy")
    }


def for_supervisor(environ: Mapping[str, str]) -> dict[str, str]:
    """What the supervisor itself takes over: no value in it is a secret."""
    return {name: value for name, value in environ.items() if name in _FOR_SUPERVISOR}
