from __future__ import annotations

import pytest

from worker.errors import Code
from worker.sites.file_names import (
    MAX_NAME_BYTES,
    clean_name,
    extension,
    extension_problem,
    name_of_disposition,
    name_problem,
)


@pytest.mark.parametrize(
    ("served", "saved"),
    [
        ("dreamshaper_8.safetensors", "dreamshaper_8.safetensors"),
        ("LTX-2.3_Cinematic hardcut.safetensors", "LTX-2.3_Cinematic hardcut.safetensors"),
        ("a$b & [c] (1).safetensors", "a$b & [c] (1).safetensors"),
        ("模型-ü.safetensors", "模型-ü.safetensors"),
        ("u\u0308.safetensors", "ü.safetensors"),
        ("u\u200d\u0308.safetensors", "ü.safetensors"),
        ("../../etc/cron.d/x.safetensors", "x.safetensors"),
        ("..\\..\\x.safetensors", "x.safetensors"),
        ("C:\\models\\x.safetensors", "x.safetensors"),
        ('a<b>c:d"e|f?g*h.safetensors', "a_b_c_d_e_f_g_h.safetensors"),
        ("a\x00b\nc\x1b[31md.safetensors", "abc[31md.safetensors"),
        ("evil\u202esrotesnetefas.safetensors", "evilsrotesnetefas.safetensors"),
        ("  ..hidden.safetensors. ", "hidden.safetensors"),
        ("x.safetensors.", "x.safetensors"),
    ],
)
def test_a_served_name_becomes_what_a_browser_would_save(served, saved):
    assert clean_name(served) == saved


@pytest.mark.parametrize("served", ["", ".", "..", "/", "a/", "\x00", "...", "C:", "C:x.safetensors", "\u200b"])
def test_a_name_of_which_nothing_is_left_is_refused(served):
    with pytest.raises(ValueError):
        clean_name(served)


def test_long_names_are_cut_between_characters_and_keep_their_extension():
    name = clean_name("模" * 200 + ".safetensors")
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert name.endswith("模.safetensors")
    assert len(clean_name("x" * 400).encode()) == MAX_NAME_BYTES


def test_a_written_name_is_never_mended_silently():
    assert name_problem("fine name (1).safetensors") is None
    for name in (
        "a/b.safetensors",
        "..\\b.safetensors",
        "..",
        "a\tb.safetensors",
        " a.safetensors",
        "con:1",
        "x" * 300,
    ):
        assert name_problem(name), name


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("A.SafeTensors", ".safetensors"),
        ("a.b.ckpt", ".ckpt"),
        ("a.pt2", ".pt2"),
        ("a.zip", ".zip"),
        ("v1.5 model", ""),
        ("plain", ""),
    ],
)
def test_the_extension_is_the_known_one_at_the_end(name, ending):
    assert extension(name) == ending


def test_only_safetensors_are_accepted_without_the_operators_word():
    assert extension_problem("a.safetensors", False) is None
    assert extension_problem("a.sft", False) is None
    assert extension_problem("a.ckpt", True) is None
    assert extension_problem("a.gguf", True) is None
    assert extension_problem("a.ckpt", False)[0] is Code.MODEL_UNSAFE
    assert "cannot check" in extension_problem("a.gguf", False)[1]
    assert extension_problem("a.zip", True) == (
        Code.INVALID_REPO_LIST,
        "a.zip is a .zip file, not a .safetensors model",
    )
    assert "without an extension" in extension_problem("a", True)[1]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="a b.safetensors"', "a b.safetensors"),
        ("attachment; filename=a.safetensors", "a.safetensors"),
        ('attachment; filename="模型.safetensors"', "模型.safetensors"),
        ('attachment; filename="模型.safetensors"'.encode().decode("latin-1"), "模型.safetensors"),
        ("attachment; filename=\"x\"; filename*=UTF-8''%E6%A8%A1.safetensors", "模.safetensors"),
        ("attachment; filename*=iso-8859-1'en'%A3.safetensors", "£.safetensors"),
        ("attachment; filename=\"x.safetensors\"; filename*=UTF-8''%ff%fe", "x.safetensors"),
        ("attachment; filename=\"x.safetensors\"; filename*=nonsense''%41", "x.safetensors"),
        ('inline; filename="a\\"b;c.safetensors"', 'a"b;c.safetensors'),
        ("attachment; filename*=\0''x", None),
        ("attachment; filename*0*=\ud800''x", None),
        ("attachment", None),
        ("", None),
    ],
)
def test_the_name_is_read_out_of_content_disposition(header, name):
    assert name_of_disposition(header) == name
