"""Numba kernels for several Python threads at once."""

import os
import subprocess
import sys

TWO_THREADS = """
import threading
import numba, torch
from lib import LInfDistNet, lp_dist, prune
from lib.ops.order import sort_dist

torch.set_num_threads(2)
x, w, c = torch.rand(64, 40), torch.rand(30, 40).requires_grad_(), [0.5, 0.25]
pruned = prune(LInfDistNet((1, 5, 8), 3, width=16, depth=2).eval())

def ask():
    for _ in range(30):
        for p in (8.0, 37.3, float("inf")):
            lp_dist(x, w, p).sum().backward()
        sort_dist(x, w, c).sum().backward()
        with torch.no_grad():
            pruned(x.view(-1, 1, 5, 8))
    done.append(True)

done = []
threads = [threading.Thread(target=ask) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(numba.threading_layer(), len(done))
"""


def test_two_threads_take_turns_where_there_is_no_openmp() -> None:
    # Numba ends a process that enters its simplest layer twice at once
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["workqueue", "2"], done.stderr[-2000:]
