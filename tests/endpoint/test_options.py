"""The command line."""

from __future__ import annotations

import pytest

from endpoint.options import parse_options


def test_help_says_that_it_is_for_one_machine(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    assert "It is for one machine" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--id", "a/b"], ["--port", "70000"], ["--workers", "0"], ["--max-attempts", "x"]])
def test_a_bad_command_line_is_refused(argv, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_options(argv)
    assert argv[0] in capsys.readouterr().err
