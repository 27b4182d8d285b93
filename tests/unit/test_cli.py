"""`kube-nb` in a real shell: words, exit codes, JSON."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest


@pytest.fixture
def kube_nb(tmp_path):
    """Runs a command of the shell face in a directory of its own."""

    def run(*words, **how):
        command = [sys.executable, "-m", "kube_nb", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **how
        )

    return run


@pytest.fixture
def script(tmp_path):
    def write(text, name="job.py"):
        (tmp_path / name).write_text(text)
        return name

    return write


@pytest.mark.slow
def test_a_file_runs_as_a_job_with_the_modules_beside_it(kube_nb, script, tmp_path):
    script("answer = 42\n", "beside.py")
    done = kube_nb("run", script("import beside\nprint(__name__, beside.answer)\nopen('a.txt', 'w').write('x')\n"))
    assert (done.returncode, done.stdout) == (0, "__main__ 42\n")
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.slow
def test_collected_files_come_back(kube_nb, script, tmp_path):
    done = kube_nb("run", script("open('a.txt', 'w').write('x')\n"), "--collect", "*.txt")
    assert done.returncode == 0
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.slow
def test_a_failing_file_fails_the_command_with_its_own_line(kube_nb, script):
    done = kube_nb("run", script("x = 1\nraise ValueError('no')\n"))
    assert done.returncode == 1
    assert "ValueError: no" in done.stderr
    assert "job.py:2" in done.stderr
    assert "kube_nb/" not in done.stderr


@pytest.mark.slow
def test_jobs_are_listed_for_programs(kube_nb, script):
    kube_nb("run", script("print(1)"))
    jobs = json.loads(kube_nb("jobs", "--json").stdout)
    assert [(job["name"], job["phase"]) for job in jobs] == [("job", "Succeeded")]


@pytest.mark.slow
def test_the_log_of_the_last_job_is_printed(kube_nb, script):
    kube_nb("run", script("print('first')"))
    kube_nb("run", script("print('second')", "b.py"))
    assert kube_nb("logs").stdout == "second\n"
    assert kube_nb("logs", "job").stdout == "first\n"


@pytest.mark.slow
def test_a_flag_without_effect_here_is_said(kube_nb, script):
    done = kube_nb("run", script("pass"), "--image", "python:3.12")
    assert done.returncode == 0
    assert "image" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "nowhere.py"), 1, "nowhere.py"),
        (("run", "job.py", "--memroy", "1Gi"), 2, "--memroy"),
        (("run", "job.py", "--memory", "lots"), 1, "lots"),
        (("run", "job.py", "--on", "moon"), 1, "moon"),
        (("logs", "nobody"), 1, "nobody"),
        (("clean", "--older-than", "soon"), 1, "soon"),
    ],
)
def test_wrong_words_are_answered(kube_nb, script, words, code, said):
    script("pass")
    done = kube_nb(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_syntax_error_names_its_line(kube_nb, script):
    done = kube_nb("run", script("a = 1\nb = = 2\n"))
    assert done.returncode == 1
    assert "line 2" in done.stderr


def test_a_dry_run_sends_nothing_and_shows_no_secret(kube_nb, script):
    done = kube_nb("run", script("pass"), "--dry-run", "--env", "PASSWORD=hunter2")
    assert "PASSWORD" in done.stdout
    assert "hunter2" not in done.stdout
    assert json.loads(kube_nb("jobs", "--json").stdout) == []


@pytest.mark.slow
def test_a_job_is_run_again_deleted_and_cleaned_away(kube_nb, script):
    kube_nb("run", script("print('again')"))
    assert kube_nb("rerun").stdout == "again\n"
    assert kube_nb("delete").returncode == 0
    assert len(json.loads(kube_nb("jobs", "--json").stdout)) == 1
    kube_nb("clean", "--older-than", "1ms")
    assert json.loads(kube_nb("jobs", "--json").stdout) == []


@pytest.mark.slow
def test_where_nobody_watches_an_interrupt_cancels_the_job(kube_nb, script, tmp_path):
    name = script("import time\nprint('on', flush=True)\ntime.sleep(600)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "kube_nb", "run", name, "--wait"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert [job["phase"] for job in json.loads(kube_nb("jobs", "--json").stdout)] == ["Cancelled"]


def test_the_doctor_speaks_to_programs(kube_nb):
    checks = json.loads(kube_nb("doctor", "--json").stdout)
    assert {"python", "storage", "cpu"} <= {check["name"] for check in checks}
    assert all(check["state"] == "ok" for check in checks if check["name"] == "python")


def test_a_setting_is_saved_and_shown_with_where_it_came_from(kube_nb, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    kube_nb("config", "return_limit=1MB")
    shown = next(line for line in kube_nb("config").stdout.splitlines() if line.startswith("return_limit"))
    assert "1MB" in shown or "1000000" in shown
    assert "user" in shown
