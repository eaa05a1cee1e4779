"""File names: whatever a site calls a file becomes one safe component in its folder, and the same one every time."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import ANY_CHARACTER, TEXT
from worker.models.plan import collision_name
from worker.sites.file_names import MAX_NAME_BYTES, clean_name, extension, name_of_disposition, name_problem

ENDINGS = st.sampled_from(["", ".safetensors", ".SAFETENSORS", ".ckpt", ".sft", ".tar.gz", ". ", "..", "/", "\\.."])
STEMS = st.one_of(
    st.text(ANY_CHARACTER, max_size=40),
    st.text(st.sampled_from("aé漢\u0301\u200d\u202e/\\. :\0"), max_size=20),
    st.text("aé漢😀", min_size=60, max_size=300),
)
PUBLISHED = st.builds(lambda stem, ending: stem + ending, STEMS, ENDINGS)


def cleaned(name):
    """The name, or None where nothing of it can be used."""
    try:
        return clean_name(name)
    except ValueError:
        return None


@given(PUBLISHED)
def test_a_published_name_becomes_one_safe_component_or_is_refused(published):
    name = cleaned(published)
    if name is None:
        return
    assert name not in ("", ".", "..")
    assert not set(name) & set('/\\\0<>:"|?*')
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert not [c for c in name if unicodedata.category(c) in ("Cc", "Cf", "Cs")]


@given(PUBLISHED)
def test_cleaning_a_clean_name_changes_nothing(published):
    name = cleaned(published)
    assert name is None or clean_name(name) == name


@given(PUBLISHED)
def test_a_clean_name_may_be_written_after_as(published):
    name = cleaned(published)
    assert name is None or name_problem(name) is None


@given(PUBLISHED)
def test_cutting_a_long_name_keeps_what_kind_of_file_it_is(published):
    name = cleaned(published)
    assert (
        name is None
        or len(published.encode("utf-8", "ignore")) < 200
        or published[-1:] in ". /\\"
        or (extension(name) == extension(unicodedata.normalize("NFC", published)))
    )


IDENTITIES = st.one_of(
    st.builds("civitai:{}:{}".format, st.integers(1, 10**12), st.integers(1, 10**12)),
    st.builds("civitai:{}:{}".format, st.integers(1, 10**12), st.text("abcé", min_size=1).map(lambda text: text * 60)),
    st.builds("hf:org/repo@main:{}".format, TEXT.map(lambda text: text.encode("utf-8", "ignore").decode())),
    st.builds("http:https://models.example/{}".format, st.text("abc", max_size=400)),
)
CANONICAL = PUBLISHED.map(cleaned).filter(bool)


@given(CANONICAL, IDENTITIES)
def test_the_name_of_a_file_whose_own_is_taken_is_another_safe_one_of_the_same_kind(name, identity):
    other = collision_name(name, identity)
    assert other.casefold() != name.casefold()
    assert "/" not in other
    assert len(other.encode()) <= 255
    assert extension(other) == extension(name) or not extension(name)
    assert collision_name(name, identity) == other


@given(CANONICAL, IDENTITIES, st.integers(2, 99))
def test_a_further_try_gives_a_further_name(name, identity, count):
    assert collision_name(name, f"{identity}-{count}") != collision_name(name, identity)


@given(
    st.one_of(
        TEXT,
        st.builds("attachment; filename={}{}".format, TEXT, TEXT),
        st.builds("x; filename*={}''{}".format, TEXT, TEXT),
    )
)
def test_any_content_disposition_gives_a_name_or_none(header):
    name = name_of_disposition(header)
    assert name is None or isinstance(name, str)
    cleaned(name or "")
