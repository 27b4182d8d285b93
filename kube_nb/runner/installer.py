"""The programs that install packages, uv and pip: what they are told, and what their failures mean.

Standard library only: ships with the job.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .install_failure import EnvironmentFailed, read_failure
from .interpreter import Interpreter, name_of

CREDENTIALS = "KUBE_NB_INDEX_CREDENTIALS"
"""Variable with the secrets of the indexes, JSON {URL: "user:password"}; taken out before the code starts."""
_SYSTEM_ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
PROXIES = "KUBE_NB_INDEX_PROXIES"
"""Variable with the way to the indexes, JSON {variable: value}; taken out before the code starts, too."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
Say = Callable[[str], None]
_RETRYING = re.compile(r"Retrying \(Retry\(.*?after connection broken by '?(\w+)")
_RETRIES = "3"
"""Of pip, whose own five take two minutes where packets are dropped; a person waits for the reason."""


class Installer:
    """uv, or pip where there is none, told about the person's index.

    Args:
        interpreter: that the packages are for.
        index: of the manifest.
        secrets: of the indexes, {URL: "user:password"}.
        proxies: the way to the indexes, {variable: value}.
        say: gets what is going on, one line at a time.
        hurried: an index that does not answer at once is not waited for.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        index: Mapping[str, Any],
        secrets: Mapping[str, str],
        proxies: Mapping[str, str],
        say: Say,
        *,
        hurried: bool = False,
    ) -> None:
        self._installed = interpreter.installed
        self._say = say
        self._secrets = secrets
        self._proxies = proxies
        self._hurried = hurried
        self._index = index
        uv = shutil.which("uv")
        if uv or "uv" in interpreter.modules:
            self._uv = True
            program = [uv] if uv else [sys.executable, "-P", "-m", "uv"]
            self._command = [*program, "pip", "install", "--color=never", "--python", sys.executable]
        elif "pip" in interpreter.modules:
            self._uv = False
            self._command = [sys.executable, "-P", "-m", "pip", "install", "--no-input", "--progress-bar=off"]
        else:
            raise EnvironmentFailed(
                what="packages are missing and nothing can install them",
                why=f"there is no uv on PATH, and neither uv nor pip in {sys.executable}",
                next="install uv there, or the packages themselves",
                code="NoInstaller",
            )
        if index.get("no_index"):
            self._command.append("--no-index")

    def plan(self, draft: Path, wanted: Sequence[str], constraints: Sequence[str], met: Sequence[str]) -> list[str]:
        """The exact distributions that must be added to what the interpreter has, as requirements.

        What is installed keeps its version if that is possible at all: values from the kernel are loaded with it. The
        constraints are what the kernel has; where they contradict each other on this platform they give way. What the
        person asked for, here and already `met`, never does.
        """
        decided = {name_of(one) for one in (*wanted, *constraints, *met)}
        kept = [f"{name}=={version}" for name, version in self._installed.items() if name not in decided and version]
        tries = [[*met, *constraints, *kept], [*met, *constraints], [*met]]
        plan = self._first_possible(draft, wanted, [one for n, one in enumerate(tries) if one not in tries[n + 1 :]])
        kernel = {key: version for key, version in self._installed.items() if key not in decided}
        kernel |= {name_of(one): one.partition("==")[2] for one in constraints}
        for requirement in plan:
            name, _, version = requirement.partition("==")
            before = kernel.get(name_of(name))
            if before is not None and version != before:
                self._say(f"for this job {name} {version} instead of {before}, because of what else it installs")
        return plan

    def _first_possible(self, draft: Path, wanted: Sequence[str], tries: Sequence[Sequence[str]]) -> list[str]:
        for constraints in tries[:-1]:
            try:
                return self._resolve(draft, wanted, constraints)
            except EnvironmentFailed as error:
                if error.code not in ("Conflict", "PackageNotFound"):
                    raise
        return self._resolve(draft, wanted, tries[-1])

    def _resolve(self, draft: Path, wanted: Sequence[str], constraints: Sequence[str]) -> list[str]:
        files = ["-r", _written(draft / "wanted.txt", wanted)]
        if constraints:
            files += ["-c", _written(draft / "constraints.txt", constraints)]
        if self._uv:
            output = self._run([*self._command, "--dry-run", "--break-system-packages", *files], draft, None)
            planned = re.finditer(r"^ [+~] (\S+?)(?:==(\S+))?(?: \(from (\S+)\))?$", output, re.MULTILINE)
            return [f"{one[1]} @ {one[3]}" if one[3] else f"{one[1]}=={one[2]}" for one in planned]
        report = draft / "report.json"
        self._run([*self._command, "--dry-run", "--report", str(report), *files], draft, None)
        return [_reported(one) for one in json.loads(report.read_text(encoding="utf-8"))["install"]]

    def install(self, draft: Path, plan: Sequence[str]) -> None:
        """Put exactly these distributions into `<draft>/site`."""
        where = ["--target", str(draft / "site"), "--no-deps", "-r", _written(draft / "plan.txt", plan)]
        self._run([*self._command, *where], draft, self._say)

    def _run(self, command: Sequence[str], draft: Path, say: Say | None) -> str:
        """What the installer wrote; its lines are said while it runs."""
        process = subprocess.Popen(
            command,
            cwd=draft,
            env=self._environment(draft),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        lines: list[str] = []
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = self._masked(raw.decode("utf-8", "replace").rstrip())
                lines.append(line)
                if retried := _RETRYING.search(line):
                    self._say(f"{self._index.get('url') or 'the package index'} does not answer ({retried[1]})")
                elif say is not None and line and not line.startswith(("warning:", "WARNING:", "[notice]")):
                    say(line)
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output = "\n".join(lines)
        if code:
            raise read_failure(output, self._index.get("url") or "the package index")
        return output

    def _environment(self, draft: Path) -> dict[str, str]:
        """Indexes go by variables: their credentials must not be seen in the list of processes."""
        env = {key: value for key, value in os.environ.items() if key not in ("PIP_TARGET", "PIP_PREFIX", "UV_TARGET")}
        env |= {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_BREAK_SYSTEM_PACKAGES": "1"}
        env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_NO_PROGRESS": "1", "PYTHONUNBUFFERED": "1"}
        if self._hurried:
            env |= {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "5", "UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "5"}
        env.setdefault("PIP_RETRIES", _RETRIES)
        for name, value in self._proxies.items():
            if name not in env and name.lower() not in env:  # what the cluster says of its own way out comes first
                env[name] = env[name.lower()] = value
        index = self._index
        if index.get("url"):
            env["UV_DEFAULT_INDEX"] = env["PIP_INDEX_URL"] = self._with_credentials(index["url"])
            env.pop("UV_INDEX_URL", None)
        if index.get("extra"):
            env["UV_INDEX"] = env["PIP_EXTRA_INDEX_URL"] = " ".join(map(self._with_credentials, index["extra"]))
            env.pop("UV_EXTRA_INDEX_URL", None)
        if index.get("find_links"):
            places = [self._with_credentials(place) for place in index["find_links"]]
            env["UV_FIND_LINKS"], env["PIP_FIND_LINKS"] = ",".join(places), " ".join(places)
        if index.get("strategy"):
            env["UV_INDEX_STRATEGY"] = index["strategy"]
        if index.get("insecure"):
            env["UV_INSECURE_HOST"] = env["PIP_TRUSTED_HOST"] = " ".join(index["insecure"])
        if index.get("ca"):
            roots = _public_roots() if index.get("ca_public") else ""
            (draft / "ca.pem").write_text(f"{roots}\n{index['ca']}\n", encoding="utf-8")
            env["SSL_CERT_FILE"] = env["PIP_CERT"] = str(draft / "ca.pem")
        return env

    def _with_credentials(self, url: str) -> str:
        secret, parts = self._secrets.get(url), urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{secret}@{parts.netloc}")) if secret else url

    def _masked(self, line: str) -> str:
        for secret in self._secrets.values():
            for part in {secret, secret.partition(":")[2]} - {""}:
                line = line.replace(part, "****")
        return re.sub(r"(://)[^/\s@]+@", r"\1****@", line)


def _public_roots() -> str:
    """The certificates that are trusted here anyway: the system's, else those that pip brings."""
    known = ssl.get_default_verify_paths()
    places = [known.cafile, known.openssl_cafile, *_SYSTEM_ROOTS]
    places.append(os.path.join(sysconfig.get_path("purelib"), "pip", "_vendor", "certifi", "cacert.pem"))
    for place in filter(None, places):
        try:
            return Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
    return ""


def _written(path: Path, lines: Sequence[str]) -> str:
    """A file of requirements; a line that would be an option of the installer instead is refused."""
    for line in lines:
        if not name_of(line) or "\n" in line or "\r" in line:
            raise EnvironmentFailed(
                what=f"`{line}` is not a requirement", next="write it like lightgbm==4.5.0", code="PackageNotFound"
            )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path.name  # the installer runs in that directory, and its messages show the name


def _reported(entry: Mapping[str, Any]) -> str:
    """One distribution of pip's installation report, as a requirement."""
    metadata, source = entry["metadata"], entry["download_info"]
    if not entry.get("is_direct"):
        return f"{metadata['name']}=={metadata['version']}"
    vcs = source.get("vcs_info")
    url = f"{vcs['vcs']}+{source['url']}@{vcs['commit_id']}" if vcs else source["url"]
    folder = f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
    return f"{metadata['name']} @ {url}{folder}"
