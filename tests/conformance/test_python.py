"""The same in plain Python: Client, `on`, `@remote`, Job."""

from __future__ import annotations

import asyncio
import time

import pytest

import kube_nb as kn
from kube_nb.errors import BadFlag, CannotTravel, JobFailed, MissingName, NotFound
from kube_nb.spec import Phase
from tests.conformance.sending import until


@pytest.fixture
def client(kernel) -> kn.Client:
    return kn.Client()


WAIT = "import time\ndef forever():\n    print('started', flush=True)\n    time.sleep(600)"


def started(job: kn.Job) -> kn.Job:
    """The job, once its code runs."""
    assert next(job.logs(follow=True)) == "started\n"
    return job


def test_a_function_gives_its_result(client):
    assert client.train(sum, [1, 2, 3]).result() == 6


def test_all_arguments_are_the_functions_own(client, cell):
    kernel = cell("def f(*args, **kwargs):\n    return args, kwargs")
    job = client.train(kernel["f"], 1, name="x", gpus=3, function="g", on="y", timeout=5)
    assert job.result() == ((1,), {"name": "x", "gpus": 3, "function": "g", "on": "y", "timeout": 5})


def test_options_go_apart_from_arguments(client, cell):
    kernel = cell("def f(name):\n    return name")
    job = client.options(name="of-the-job", timeout="1h").train(kernel["f"], name="of the function")
    assert (job.name, job.result()) == ("of-the-job", "of the function")


def test_options_leave_the_client_as_it_was(client):
    client.options(name="other")
    assert client.train(sum, [1]).wait().name == "sum"


def test_an_option_that_does_not_exist_is_refused_with_the_nearest(client):
    with pytest.raises(BadFlag) as caught:
        client.options(tmieout="1h")
    assert "timeout" in caught.value.next


def test_on_is_a_client_for_a_target(target, kernel):
    assert kn.on(target.on, name="x").train(sum, [1, 2]).result() == 3


def test_a_function_of_the_notebook_sees_its_globals(client, cell):
    kernel = cell("k = 3\ndef scaled(x):\n    return k * x")
    kernel.run("k = 10")
    assert client.train(kernel["scaled"], 2).result() == 20


def test_a_lambda_and_a_method_can_be_sent(client, cell):
    kernel = cell("class A:\n    n = 2\n    def times(self, x): return self.n * x\na = A()")
    assert client.train(lambda x: x + 1, 1).result() == 2
    assert client.train(kernel["a"].times, 4).result() == 8


def test_a_coroutine_function_is_awaited(client, cell):
    kernel = cell("async def f(x):\n    return x + 1")
    assert client.train(kernel["f"], 1).result() == 2


def test_a_result_is_an_instance_of_the_notebooks_class(client, cell):
    kernel = cell("class A: ...\ndef make():\n    return A()")
    assert type(client.train(kernel["make"]).result()) is kernel["A"]


def test_a_call_leaves_the_names_of_the_notebook_alone(client, cell):
    kernel = cell("n = 0\ndef tick():\n    global n\n    n += 1\n    return n")
    assert client.train(kernel["tick"]).result() == 1
    assert kernel["n"] == 0


def test_a_cell_gives_the_names_it_assigned(client):
    assert client.cell("a = 1\nb = x + 1", {"x": 1}).result() == {"a": 1, "b": 2}


def test_a_cell_with_a_missing_name_is_refused(client):
    with pytest.raises(MissingName):
        client.cell("y = nowhere", {})


def test_what_cannot_travel_is_named(client):
    import threading

    with pytest.raises(CannotTravel) as caught:
        client.train(print, {"deep": [threading.Lock()]})
    assert "deep" in caught.value.path


def test_a_script_runs_with_the_modules_beside_it(client, notebook_dir):
    (notebook_dir / "steps.py").write_text("word = 'from a module'")
    (notebook_dir / "main.py").write_text("import steps\nif __name__ == '__main__':\n    print(steps.word)\n")
    job = client.script(notebook_dir / "main.py").wait()
    assert job.phase is Phase.SUCCEEDED
    assert list(job.logs()) == ["from a module\n"]


def test_a_failed_call_raises_job_failed_with_the_cause(client, cell):
    kernel = cell("class Mine(Exception): ...\ndef f():\n    raise Mine('no')")
    job = client.train(kernel["f"])
    with pytest.raises(JobFailed) as caught:
        job.result()
    assert type(caught.value.__cause__) is kernel["Mine"]
    assert caught.value.reason.code == "Exception"


def test_outputs_of_a_failed_job_raise(client, cell):
    kernel = cell("def f():\n    raise ValueError('no')")
    with pytest.raises(JobFailed):
        client.train(kernel["f"]).outputs["x"]


def test_wait_never_raises_for_a_failed_job(client, cell):
    kernel = cell("def f():\n    raise ValueError('no')")
    assert client.train(kernel["f"]).wait().phase is Phase.FAILED


def test_the_reason_of_a_failed_job_is_a_value(client, cell):
    kernel = cell("def f():\n    raise ValueError('no')")
    reason = client.train(kernel["f"]).wait().reason
    assert reason.code == "Exception"
    assert "ValueError" in reason.what + reason.why


def test_wait_returns_after_its_timeout(client, cell):
    job = started(client.train(cell(WAIT)["forever"]))
    began = time.monotonic()
    assert job.wait(timeout=0.2) is job
    assert time.monotonic() - began < 5
    assert job.phase is Phase.RUNNING


def test_a_job_can_be_awaited(client):
    async def wait() -> kn.Job:
        job = client.train(sum, [1, 2])
        assert await job is job
        return job

    assert asyncio.run(wait()).phase is Phase.SUCCEEDED


def test_jobs_can_be_awaited_together(client):
    async def both() -> list[int]:
        jobs = [client.train(sum, [1, n]) for n in range(2)]
        await asyncio.gather(*jobs)
        return [job.result() for job in jobs]

    assert asyncio.run(both()) == [1, 2]


def test_await_works_in_a_cell_of_the_notebook(cell):
    kernel = cell("import kube_nb as kn\njob = kn.Client().train(sum, [1, 2])\nawait job\nvalue = job.result()")
    assert kernel["value"] == 3


def test_logs_give_lines(client):
    job = client.train(print, "a\nb", end="")
    job.wait()
    assert list(job.logs()) == ["a\n", "b"]


def test_logs_can_be_followed_to_the_end(client, cell):
    kernel = cell("def f():\n    for i in range(3):\n        print(i)")
    assert list(client.train(kernel["f"]).logs(follow=True)) == ["0\n", "1\n", "2\n"]


def test_logs_without_follow_end_where_the_job_stands(client, cell):
    job = started(client.train(cell(WAIT)["forever"]))
    assert list(job.logs()) == ["started\n"]


def test_metrics_of_a_live_job_are_those_so_far(client, cell):
    kernel = cell(WAIT + "\nimport kube_nb as kn\ndef f():\n    kn.report(loss=1)\n    forever()")
    job = started(client.train(kernel["f"]))
    assert [point["loss"] for point in job.metrics()] == [1]


def test_a_job_is_found_by_id_name_and_prefix(client):
    job = client.options(name="findable").train(sum, [1]).wait()
    assert client.job(job.id).id == job.id
    assert client.job("findable").id == job.id
    assert client.job(job.id[:-2]).id == job.id


def test_the_newest_of_a_name_is_found(client):
    old, new = (client.options(name="twice").train(sum, [n]) for n in range(2))
    assert client.job("twice").id == new.id
    assert client.job(old.id).id == old.id


def test_a_prefix_of_several_jobs_names_them(client):
    jobs = [client.options(name="many-of-them").train(sum, [n]) for n in range(2)]
    with pytest.raises(NotFound) as caught:
        client.job("many-of-th")
    assert all(job.id in str(caught.value) for job in jobs)


def test_the_last_job_needs_no_name(client):
    client.train(sum, [1])
    last = client.train(sum, [2])
    assert client.job().id == last.id


def test_a_job_that_does_not_exist_is_not_found(client):
    with pytest.raises(NotFound):
        client.job("never-was-there")


def test_jobs_are_listed_newest_first(client):
    jobs = [client.train(sum, [n]).wait() for n in range(3)]
    mine = [job.id for job in jobs]
    assert [job.id for job in client.jobs() if job.id in mine] == mine[::-1]


def test_a_deleted_job_is_gone(client):
    job = client.train(sum, [1]).wait()
    client.delete(job)
    assert job.id not in [other.id for other in client.jobs()]
    with pytest.raises(NotFound):
        client.job(job.id)


def test_deleting_a_live_job_ends_it(client, cell):
    job = started(client.train(cell(WAIT)["forever"]))
    job.delete()
    assert job.id not in [other.id for other in client.jobs()]


def test_a_cancelled_job_is_cancelled(client, cell):
    job = started(client.train(cell(WAIT)["forever"]))
    job.cancel()
    assert job.wait().phase is Phase.CANCELLED
    assert job.reason.code == "Cancelled"


def test_the_result_of_a_cancelled_job_raises(client, cell):
    job = started(client.train(cell(WAIT)["forever"]))
    job.cancel()
    with pytest.raises(JobFailed) as caught:
        job.result()
    assert caught.value.reason.code == "Cancelled"


def test_cancelling_a_finished_job_changes_nothing(client):
    job = client.train(sum, [1]).wait()
    job.cancel()
    assert (job.phase, job.result()) == (Phase.SUCCEEDED, 1)


def test_a_job_that_takes_too_long_is_ended(client, cell):
    job = client.options(timeout="500ms").train(cell(WAIT)["forever"]).wait()
    assert (job.phase, job.reason.code) == (Phase.FAILED, "TimedOut")


@pytest.mark.slow
def test_a_failure_is_tried_again(client, cell):
    kernel = cell(
        "import kube_nb as kn\n"
        "def f():\n    mark = kn.checkpoint_dir() / 'tried'\n    print('try')\n"
        "    if not mark.exists():\n        mark.touch()\n        raise ValueError('the first time')\n    return 'ok'"
    )
    job = client.options(retries=1).train(kernel["f"])
    assert job.result() == "ok"
    assert job.status().attempt == 1


def test_a_job_is_shown_as_a_card(client):
    job = client.train(sum, [1]).wait()
    data = job._repr_mimebundle_()
    assert job.id in data["text/plain"]
    assert "Succeeded" in data["text/html"]


def test_a_subscriber_hears_the_phases(client):
    heard = []
    job = client.train(sum, [1])
    subscription = job.subscribe(lambda status: heard.append(status.phase))
    until(lambda: Phase.SUCCEEDED in heard)
    subscription.close()
    assert heard == sorted(heard, key=list(Phase).index)


def test_a_remote_function_returns_its_result(cell):
    kernel = cell("import kube_nb as kn\n@kn.remote\ndef add(a, b=1):\n    return a + b")
    assert kernel.run("add(2, b=3)").value == 5


def test_a_remote_function_prints_what_the_job_prints(cell):
    kernel = cell("import kube_nb as kn\n@kn.remote\ndef hello():\n    print('hello')")
    assert kernel.run("hello()").text == "hello\n"


def test_a_remote_function_with_options_is_submitted(cell):
    kernel = cell("import kube_nb as kn\n@kn.remote(name='deco', timeout='1m')\ndef f(name):\n    return name")
    job = kernel.run("f.submit(name='mine')").value
    assert (job.name, job.result()) == ("deco", "mine")


def test_what_was_set_for_this_kernel_holds_for_python_too(cell):
    kernel = cell("%kube_config return_limit=1Ki")
    kernel.run("import kube_nb as kn\nseen = kn.Client().settings.get('return_limit')")
    assert kernel["seen"] == 1024


def test_a_remote_function_raises_the_users_exception(cell):
    kernel = cell("import kube_nb as kn\n@kn.remote\ndef f():\n    raise LookupError('lost')")
    shown = kernel.run("f()", fails=True)
    assert (shown.error.ename, shown.error.evalue) == ("LookupError", "lost")


def test_a_remote_function_keeps_its_name_and_runs_here_when_asked(cell):
    kernel = cell("import kube_nb as kn\n@kn.remote\ndef f(x):\n    'Doc.'\n    return x")
    assert (kernel["f"].__name__, kernel["f"].__doc__, kernel["f"].local(3)) == ("f", "Doc.", 3)


def test_a_wrong_option_of_a_decorator_is_said_where_it_is_written():
    with pytest.raises(BadFlag):
        kn.remote(tmieout="1h")


def test_two_clients_share_the_jobs(client):
    job = client.train(sum, [1]).wait()
    assert kn.Client().job(job.id).result() == 1


@pytest.mark.slow
def test_many_jobs_at_once_all_end(client):
    jobs = [client.train(pow, n, 2) for n in range(6)]
    assert [job.result() for job in jobs] == [n * n for n in range(6)]
