"""An export as a flow, on Dask workers of other processes."""

from pathlib import Path

from flows.cluster import PlaceConfig
from tasks.export.export import export
from tasks.storage.location import Location
from tests.integration.processes import Cluster
from tests.tasks.outputs import Cohort, carry_out


def test_workers_export_a_cohort_to_the_bytes_that_one_process_does(tmp_path: Path, cluster: Cluster) -> None:
    from flows.export import export_cohort

    cohort, output = Cohort(tmp_path / "cohort", range(6)), Location(url=str(tmp_path / "out"))
    (cohort.folder / "2.npy").write_bytes(b"no image")
    carry_out(cohort.content(output))
    (cohort.folder / "3.npy").unlink()
    place = PlaceConfig(scheduler=cluster.address)
    chosen, done = export_cohort(output, ("nifti", "png"), compute=place)
    assert (done.written, done.kept, chosen.left_out) == (8, 0, {"quarantined": 1})
    assert done.failed == {"id-3": "a file of the image cannot be opened (FileNotFoundError)"}
    here = Location(url=str(tmp_path / "here"))
    export(output, ["nifti", "png"], here)
    files = here.sizes()
    assert files == (output / "exports").sizes()
    assert all((here / name).read() == (output / "exports" / name).read() for name in files)
    _, done = export_cohort(output, ("nifti", "png"), compute=place)
    assert (done.written, done.kept) == (0, 8)
