"""The benchmarks' page: tables between their markers, goals in a summary, hand-written text left alone."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import Goal, over, publish, under

PAGE = """# Numbers
<!-- summary -->
<!-- /summary -->
by hand
<!-- first -->
old
<!-- /first -->
more by hand
## The second: why, and how
<!-- second -->
<!-- /second -->
"""


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_a_table_takes_the_place_of_the_old_one_and_the_text_around_stays(page):
    publish("first", "| new |", write=True, page=page)
    text = page.read_text()
    assert "| new |" in text
    assert "old" not in text
    assert "by hand" in text
    assert "more by hand\n## The second: why, and how\n<!-- second -->\n<!-- /second -->" in text
    assert "cores" in text, "the machine is named with what was measured on it"


def test_what_no_machine_measured_names_none(page):
    publish("first", "| new |", write=True, page=page, measured=False)
    assert "cores" not in page.read_text()


def test_the_summary_has_every_goal_in_the_pages_order_whichever_benchmark_ran_last(page):
    publish("second", "| b |", [Goal("b", "<= 1", "2", "0.5", "1 s")], write=True, page=page)
    publish("first", "| a |", [Goal("a", "<= 1", "1", "0.4")], write=True, page=page)
    publish("first", "| a |", [Goal("a", "<= 1", "0.9", "0.3")], write=True, page=page)
    summary = page.read_text().partition("<!-- /summary -->")[0]
    assert summary.splitlines()[-2:] == [
        "| a | <= 1 | 0.9 | 0.3 | met |",
        "| b | <= 1 | 2 | 0.5 | [missed](#the-second-why-and-how) by 1 s |",
    ]


def test_without_write_the_page_is_left_alone(page, capsys):
    publish("first", "| new |", [Goal("a", "<= 1", "1", "0.4")], write=False, page=page)
    assert page.read_text() == PAGE
    assert "| new |" in capsys.readouterr().out


def test_a_section_that_the_page_lacks_is_an_error_that_names_it(page):
    with pytest.raises(SystemExit, match="<!-- third -->"):
        publish("third", "| c |", write=True, page=page)


def test_a_goal_is_missed_by_what_is_over_or_under_it():
    assert (over(5.5, 4, "ms"), over(4, 4, "ms")) == ("1.5 ms", "")
    assert (under(0.74, 0.95), under(0.95, 0.95)) == ("0.21", "")


def test_every_section_that_a_benchmark_writes_is_on_its_page():
    for script in Path(report.__file__).parent.glob("*.py"):
        source = script.read_text()
        for section in (part.partition('"')[0] for part in source.split('report.publish("')[1:]):
            assert f"<!-- {section} -->" in report.PAGE.read_text(), (script.name, section)


def test_a_change_of_our_code_installs_nothing_again():
    dockerfile = (report.PAGE.parents[1] / "Dockerfile").read_text()
    _, our_code, after = dockerfile.partition("\nCOPY start.sh handler.py")
    assert our_code
    assert "install" not in after
    assert "apt-get" not in after
