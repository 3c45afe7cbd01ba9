"""Scans as large as the Decathlon's own: 240 x 240 x 155 voxels of four channels, in little memory."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from decathlon_folder import affine_of, decathlon, write_case

if "CI" not in os.environ:
    pytest.importorskip("torch")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SHAPE = (240, 240, 155)
MEMORY_AT_MOST = 4 * 2**30

PATCH = 128

# In a process of its own, whose memory is that of the tasks.
TASKS = """
    import json, resource, sys
    from pathlib import Path
    from training_folder import fill
    from wardround.training import run_folder
    from wardround_messages.names import Task
    from wardround_messages.task_folder import UPDATE

    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    job = {"trainer": "brain-tumour-unet", "parameters": {"patch": int(sys.argv[3]), "inference": "whole"}}
    fill(folder / "first", Task.INITIALISE, data, **job)
    assert run_folder(folder / "first").failure is None
    model = (folder / "first" / UPDATE).read_bytes()
    result = run_folder(fill(folder / "train", Task.TRAIN, data, model=model, **job))
    assert result.failure is None, (result.failure, result.text)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {**result.seconds, "cpu": resource.getrusage(resource.RUSAGE_SELF).ru_utime}
    print(json.dumps({"peak": peak, "steps": result.steps, "values": result.received.values, "seconds": seconds}))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mostly zeros, which are quickly packed, but with something in two opposite corners, so that nothing is cropped.

    The first in int16 as the Decathlon's early release has it, the second in float32 as the later one.
    """
    folder = decathlon(tmp_path_factory.mktemp("data") / "Task01_BrainTumour", 2)
    label = np.zeros(SHAPE, np.uint8)
    for value, reach in ((1, 24), (2, 16), (3, 9)):
        label[tuple(slice(length // 2 - reach, length // 2 + reach) for length in SHAPE)] = value
    image = np.zeros((*SHAPE, 4), np.int16)
    image[60:180, 60:180, 40:120] = 100
    image += (label * np.uint8(40))[..., None]
    image[0, 0, 0] = image[-1, -1, -1] = 1
    for number, dtype in ((1, np.int16), (2, np.float32)):
        write_case(folder, f"BRATS_{number:03d}", image.astype(dtype), label, affine_of(1.0))
    return folder


def test_scans_of_full_size_are_trained_on_and_measured_whole_in_four_gigabytes(tmp_path: Path, data: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TASKS), tmp_path, data, str(PATCH)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    print(said)
    assert said["peak"] < MEMORY_AT_MOST
    assert said["steps"] == 1
    assert all(value is not None for value in said["values"].values())
