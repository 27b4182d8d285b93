"""The training loop that the benchmarks of trainings run on both sides."""

from __future__ import annotations

LOOP = """
for step in range(WARM_UP + STEPS):
    if step == WARM_UP:
        SYNC
        began = time.perf_counter()
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print("step", step, "loss", loss.item(), flush=True)
SYNC
seconds = time.perf_counter() - began
"""


def script(setup: str, steps: int, *, sync: str, end: str = "") -> str:
    """A script that trains and prints how long the measured steps took, last.

    Args:
        setup: makes `model`, `optimizer`, `inputs` and `targets`, and imports `time` and `nn`.
        steps: how many are measured; a tenth of them go before.
        sync: waits until all that was asked for is computed, everywhere.
        end: comes after the measurement.
    """
    loop = LOOP.replace("WARM_UP", str(steps // 10)).replace("STEPS", str(steps)).replace("SYNC", sync)
    return f'{setup.rstrip()}{loop}{end}print("seconds", seconds, flush=True)\n'
