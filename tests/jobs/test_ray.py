"""Jobs on a real Ray cluster: two nodes on this machine, one of which goes away in the middle."""

import os
import threading
import time

import pytest
from counting_job import Squares, contents, finished, plan

from caseback.errors import CasebackError
from caseback.jobs.job import Job
from caseback.jobs.launch import launch

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'caseback[scale]'")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def paths():
    """What workers on the nodes import from, since they begin with the environment of the cluster."""
    here = os.path.dirname(__file__)
    import caseback

    source = os.path.dirname(os.path.dirname(caseback.__file__))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([source, here, *([before] if before else [])])
    os.environ["RAY_DISABLE_MEMORY_MONITOR"] = "1"
    yield
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_that_stops_in_the_middle_costs_its_shard_and_no_more(cluster, tmp_path):
    expected = contents(finished(tmp_path / "calm").folder)
    mark = tmp_path / "mark"
    mark.mkdir()
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    job = Job.begin(tmp_path / "job", plan())
    failed = []

    def run():
        try:
            launch(job, Squares(mark, seconds=2.0), workers=0, on=cluster.address)
        except BaseException as error:
            failed.append(error)

    running = threading.Thread(target=run)
    running.start()
    patience = time.monotonic() + 120
    while len({path.name.split("-")[1] for path in mark.iterdir()}) < 2 and time.monotonic() < patience:
        time.sleep(0.02)  # until both nodes have a shard in hand
    assert len({path.name.split("-")[1] for path in mark.iterdir()}) == 2
    # shards are long enough that the node still has one in hand when it is gone, on a busy machine too
    cluster.remove_node(second, allow_graceful=False)
    running.join(timeout=240)
    assert not running.is_alive() and not failed
    assert contents(job.folder) == expected
    assert len(list(mark.iterdir())) > len(job)  # a shard was begun twice


def test_a_shard_that_fails_is_told_and_the_rest_goes_on_later(cluster, tmp_path):
    job = Job.begin(tmp_path, plan(4))
    with pytest.raises(CasebackError, match="shard 2 could not be done: shard 2 is not to be"):
        launch(job, Squares(fails=[2]), workers=1, on=cluster.address)
    launch(job, Squares(), workers=0, on=cluster.address)
    assert not job.undone()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_no_cluster_is_told(address, tmp_path):
    with pytest.raises(CasebackError, match="no Ray cluster answers at"):
        launch(Job.begin(tmp_path, plan()), Squares(), on=address)
