"""The jobs on disk."""

from __future__ import annotations

import json

from client.jobs import JobTable
from tests.client.support import a_job


def test_the_table_survives_unreadable_rows(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    job = a_job()
    table.add(job)
    job.state = "running"
    table.save(job)
    table._db.execute("INSERT INTO jobs VALUES ('bad', 0, 0, '{', '{')")
    table.close()
    table = JobTable(tmp_path / "jobs.sqlite")
    assert table.load() == [job]
    table.close()


def test_a_delivered_job_is_stored_under_the_name_that_older_versions_read(tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    table.add(a_job(delivered_to_tab=True))
    ((state,),) = table._db.execute("SELECT life FROM jobs").fetchall()
    assert json.loads(state)["shown"] is True
    assert "delivered_to_tab" not in json.loads(state)
    table._db.execute(
        "UPDATE jobs SET life = ?", (json.dumps({"number": 1, "client_id": "", "endpoint": "", "shown": True}),)
    )
    assert [job.delivered_to_tab for job in table.load()] == [True]
    table.close()
