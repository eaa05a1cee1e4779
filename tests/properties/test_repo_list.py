"""repo_list: any text is read or refused by line, a list means the same however it is spaced, no host slips in."""

from __future__ import annotations

import json
from urllib.parse import quote, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import ANY_CHARACTER, JSON
from worker.errors import Code, WorkerError
from worker.net.redact import redact
from worker.sites.repo_list import key_url, parse_repo_list, read_civitai
from worker.sites.types import TYPE_FOLDERS

HOSTS = ("models.example", "127.0.0.1:8123")
OURS = {"civitai.com", "huggingface.co", "models.example", "127.0.0.1"}
PIECES = st.sampled_from(
    [
        *(
            "lora ",
            "CKPT ",
            "vae: ",
            "emb ",
            " as ",
            "as",
            ' as "x y.safetensors"',
            " # note",
            "\n",
            "\r\n",
            "\u2028",
            " ",
        ),
        *("https://", "http://", "civitai.com", "www.civitai.com/", "civitai.red/", "huggingface.co", "models.example"),
        *(
            "/api/download/models/12",
            "/models/7",
            "?modelVersionId=",
            "?type=Model&format=SafeTensor",
            "&fileId=9",
            "٣",
        ),
        *(
            "/org/repo/resolve/main/a.safetensors",
            "/blob/main/",
            "/..",
            "%2e%2e/",
            "?token=s3cret",
            "&token=s3cret",
            "@",
        ),
        *(
            "user:pw@",
            ":443",
            ":8123",
            "[::1]",
            "127.0.0.1:8123",
            "/x.safetensors",
            "a.ckpt",
            "evil.example",
            "\\",
            "#f",
        ),
    ]
)
NAMES = st.text("abcXYZ019 ._-()äé漢", min_size=1, max_size=12).map(lambda stem: f"m{stem.strip()}.safetensors")
WORDS = st.sampled_from(list(TYPE_FOLDERS)).flatmap(lambda word: st.sampled_from([word, word.upper(), f"{word}:"]))
PATHS = st.lists(st.text("abc01-_.", min_size=1).filter(lambda part: part not in (".", "..")), min_size=1, max_size=3)


@st.composite
def good_lines(draw):
    """A line, and what it must be read as: site, url, folder, name."""
    word, name = draw(st.none() | WORDS), draw(st.none() | NAMES)
    kind = draw(st.sampled_from(["version", "model", "page", "hf", "direct"]))
    number, version = draw(st.integers(1, 10**9)), draw(st.integers(1, 10**9))
    if kind == "version":
        site, link = "civitai", f"https://civitai.com/api/download/models/{number}"
        url = link
    elif kind == "model":
        site, link = "civitai", f"https://civitai.red/models/{number}/some-words"
        url = f"https://civitai.com/models/{number}"
    elif kind == "page":
        site, link = "civitai", f"www.civitai.com/models/{number}?modelVersionId={version}"
        url = f"https://civitai.com/api/download/models/{version}"
    else:
        word = word or draw(WORDS)
        path = "/".join([*draw(PATHS), "file.safetensors"])
        if kind == "hf":
            site, link = "hf", f"https://hf.co/org/repo/blob/main/{quote(path)}?download=true"
            url = f"https://huggingface.co/org/repo/resolve/main/{quote(path)}"
        else:
            site, link = "http", f"https://models.example/{quote(path)}"
            url = link
    said = " ".join(part for part in (word, link) if part) + (f" as {name}" if name else "")
    folder = TYPE_FOLDERS[word.lower().rstrip(":")] if word else None
    return said, (site, url, folder, name)


@st.composite
def bent_lines(draw):
    """A valid line with something put into it."""
    said, _ = draw(good_lines())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(said)))
        said = said[:at] + draw(st.one_of(PIECES, st.text(ANY_CHARACTER, max_size=2))) + said[at:]
    return said


LINES = st.lists(st.one_of(PIECES, PIECES, PIECES, st.text(ANY_CHARACTER, max_size=4)), max_size=12).map("".join)
ANY_LIST = st.one_of(
    bent_lines(), LINES, st.lists(bent_lines() | LINES, max_size=5).map("\n".join), st.text(ANY_CHARACTER, max_size=60)
)


def read(text, **how):
    """The lines, or None where the list was refused as the contract has it."""
    try:
        return parse_repo_list(text, hosts=HOSTS, **how)
    except WorkerError as error:
        assert error.code in (Code.INVALID_REPO_LIST, Code.MODEL_UNSAFE)
        bad = error.details["lines"]
        assert all(1 <= line["number"] <= len(text.splitlines()) and line["problem"] for line in bad)
        assert f"line {bad[0]['number']} " in error.message
        json.dumps(error.answer(), ensure_ascii=False).encode()
        return None


@given(ANY_LIST, st.booleans())
def test_any_text_is_read_or_refused_with_the_number_of_its_line(text, allow_pickle):
    read(text, allow_pickle=allow_pickle)


@given(JSON)
def test_any_json_in_place_of_a_list_is_read_or_refused(value):
    try:
        parse_repo_list(value)
    except WorkerError as error:
        assert error.code in (Code.INVALID_REPO_LIST, Code.MODEL_UNSAFE)


@given(ANY_LIST)
def test_an_accepted_line_leads_to_an_allowed_host_by_https(text):
    for line in read(text) or ():
        parts = urlsplit(line.url)
        assert parts.hostname in OURS
        assert parts.scheme == "https" or parts.hostname == "127.0.0.1"
        assert parts.username is None
        assert line.folder is None or line.folder in TYPE_FOLDERS.values()
        (line.url + line.key + line.text).encode()


@given(good_lines(), st.sampled_from(["token", "TOKEN", "Token"]), st.sampled_from(["&type=Model", ""]), st.booleans())
def test_a_token_in_a_link_is_kept_apart_and_shown_nowhere(good, field, more, spoiled):
    said, _ = good
    link, name = said.split(" as ")[0], said.partition(" as ")[2]
    joint = "&" if "?" in link else "?"
    text = f"{link}{joint}{field}=s3cret{more}{' as ' + name if name else ''}{' and more' if spoiled else ''}"
    try:
        (line,) = parse_repo_list(text, hosts=HOSTS)
    except WorkerError as error:
        assert "s3cret" not in json.dumps(error.answer())
    else:
        assert line.token == "s3cret"
        assert "s3cret" not in repr(line)


@given(st.lists(good_lines(), max_size=6))
def test_a_valid_line_is_read_as_what_it_says(lines):
    parsed = parse_repo_list([said for said, _ in lines], hosts=HOSTS)
    expected = list(dict.fromkeys(meant for _, meant in lines))
    assert [(line.site, line.url, line.folder, line.filename) for line in parsed] == expected


@given(st.lists(good_lines(), max_size=6))
def test_what_was_read_reads_the_same_when_it_is_written_out_again(lines):
    words = {folder: word for word, folder in TYPE_FOLDERS.items()}
    parsed = parse_repo_list([said for said, _ in lines], hosts=HOSTS)
    again = [
        f"{words[line.folder] + ' ' if line.folder else ''}{line.url}{f' as {line.filename}' if line.filename else ''}"
        for line in parsed
    ]
    assert [line.key for line in parse_repo_list(again, hosts=HOSTS)] == [line.key for line in parsed]


SPACES = st.text(" \t\u3000\ufeff\u200b", max_size=3)
NOTES = st.sampled_from(["", " # a note", "\t#x", " #"])
BETWEEN = st.lists(st.sampled_from(["", "   ", "# a comment", "\t# https://evil.example"]), max_size=2)


@given(st.lists(good_lines(), max_size=5), st.data())
def test_comments_blank_lines_and_spaces_change_nothing(lines, data):
    plain = [said for said, _ in lines]
    dressed = []
    for said in plain:
        dressed += data.draw(BETWEEN)
        dressed.append(data.draw(SPACES) + said + data.draw(SPACES) + data.draw(NOTES))
    ending = data.draw(st.sampled_from(["\n", "\r\n", "\r", "\u2028"]))
    parsed = parse_repo_list(ending.join([*dressed, *data.draw(BETWEEN)]), hosts=HOSTS)
    assert [line.key for line in parsed] == [line.key for line in parse_repo_list(plain, hosts=HOSTS)]


@given(st.lists(good_lines(), max_size=6).flatmap(lambda lines: st.tuples(st.just(lines), st.permutations(lines))))
def test_the_order_of_the_lines_only_orders_what_is_read(both):
    one, other = ([line.key for line in parse_repo_list([said for said, _ in lines], hosts=HOSTS)] for lines in both)
    assert sorted(one) == sorted(other)


FOREIGN = st.one_of(
    st.from_regex(r"[a-z]{1,8}(\.[a-z]{2,5}){1,2}", fullmatch=True),
    st.from_regex(r"(civitai\.com|huggingface\.co|models\.example)(\.[a-z]{2,4}|:8080|\.)", fullmatch=True),
    st.from_regex(r"[a-z]{1,4}(\.|-)?(civitai\.com|huggingface\.co|models\.example)", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.sampled_from(["localhost", "0x7f.1", "2130706433", "127.0.0.1", "127.0.0.1:8124", "civitaı.com"]),
).filter(lambda host: host not in ("www.civitai.com", "www.huggingface.co", "hf.co"))


@given(FOREIGN, st.sampled_from(["https", "http"]), st.sampled_from(["", "user@", "civitai.com@"]))
def test_a_link_to_a_host_that_nobody_named_is_always_refused(host, scheme, user):
    assert read(f"lora {scheme}://{user}{host}/api/download/models/12/x.safetensors") is None


@given(st.integers(0, 10**12 - 1))
def test_a_civitai_link_gives_back_its_number(number):
    for path in (f"models/{number}", f"api/download/models/{number}"):
        (line,) = parse_repo_list(f"https://civitai.com/{path}")
        link = read_civitai(line.url)
        assert number in (link.model, link.version)


@given(ANY_LIST)
def test_a_key_names_the_same_file_whatever_signature_the_link_carries(text):
    for line in read(text) or ():
        joint = "&" if "?" in line.url else "?"
        assert key_url(f"{line.url}{joint}Signature=abc&Expires=1") == key_url(line.url)


@given(st.text(ANY_CHARACTER, max_size=80))
def test_hiding_secrets_twice_hides_no_more_than_once(text):
    assert redact(redact(text)) == redact(text)
