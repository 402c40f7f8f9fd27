"""A comparison spread by MPI; needs mpi4py, and mpiexec beside Python or on the path."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt_fast as mg

ARMS = [{"activation": "relu"}, {"activation": "relu2"}]
NAMES = "anna bert clara dora emil fritz gerda hans ida jan".split()
PROGRAM = f"""
import json
import microgpt_fast as mg
from mpi4py.futures import MPIPoolExecutor

if __name__ == "__main__":
    with MPIPoolExecutor() as executor:
        result = mg.compare({ARMS}, 3, "names.txt", executor=executor, out="results.jsonl", num_steps=20)
    print(json.dumps([arm.losses for arm in result.arms]))
"""


@pytest.mark.slow
def test_mpi_gives_the_same_losses(tmp_path):
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which(
        "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if mpiexec is None:
        pytest.skip("needs mpiexec")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    (tmp_path / "program.py").write_text(PROGRAM)
    home = str(Path(mg.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",  # Open MPI asks twice
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    done = subprocess.run(
        [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", "program.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [{int(seed): loss for seed, loss in arm.items()} for arm in json.loads(done.stdout)]
    wanted = mg.compare(ARMS, 3, NAMES, num_steps=20)
    assert losses == [arm.losses for arm in wanted.arms]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 7
