"""Top-level await and tasks: a loop runs in the job as it does in a kernel."""

from __future__ import annotations


def test_await_works_at_the_top_level(cell):
    setup = "import asyncio\nasync def double(x):\n    await asyncio.sleep(0)\n    return 2 * x"
    assert cell(setup, send="y = await double(21)")["y"] == 42


def test_the_value_of_an_awaited_expression_is_shown(cell):
    setup = "async def answer():\n    return 42"
    assert cell(setup, send="await answer()").displays == [{"text/plain": "42"}]


def test_tasks_run_while_another_is_awaited(cell):
    kernel = cell(
        "import asyncio\nseen = []",
        send="""
        async def note(word):
            seen.append(word)
        task = asyncio.create_task(note("task"))
        await asyncio.sleep(0)
        seen.append("cell")
        del task
        """,
    )
    assert kernel["seen"] == ["task", "cell"]


def test_gather_works(cell):
    setup = "import asyncio\nasync def square(x):\n    await asyncio.sleep(0)\n    return x * x"
    assert cell(setup, send="squares = await asyncio.gather(*map(square, range(4)))")["squares"] == [0, 1, 4, 9]


def test_async_with_and_async_for_work_at_the_top_level(cell):
    setup = """
from contextlib import asynccontextmanager
@asynccontextmanager
async def opened():
    yield 10
async def numbers():
    for i in range(3):
        yield i
"""
    kernel = cell(
        setup,
        send="""
        total = 0
        async with opened() as start:
            async for i in numbers():
                total += start + i
        """,
    )
    assert kernel["total"] == 33


def test_code_that_starts_its_own_loop_works(cell):
    setup = "import asyncio\nasync def answer():\n    return 42"
    assert cell(setup, send="y = asyncio.run(answer())")["y"] == 42


def test_the_exception_of_an_awaited_call_is_the_users(cell):
    setup = "async def fail():\n    raise LookupError('lost')"
    assert cell(setup, send="await fail()", fails=True).error.ename == "LookupError"
