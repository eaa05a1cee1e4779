from __future__ import annotations

import pytest

from worker.errors import Code, WorkerError
from worker.sites.repo_list import MAX_LINES, key_url, line_error, parse_repo_list, read_civitai
from worker.sites.types import TYPE_FOLDERS, RepoLine

VERSION = "https://civitai.com/api/download/models/128713"


def one(text: str, **options: object) -> RepoLine:
    lines = parse_repo_list(text, **options)
    assert len(lines) == 1, lines
    return lines[0]


def refusal(text: object, **options: object) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        parse_repo_list(text, **options)
    return caught.value


@pytest.mark.parametrize("word", ["", "lora ", "CKPT ", "clipvision ", "unknown "])
@pytest.mark.parametrize("number", ["128713", "007", "999999999999", "1234567890123"])
def test_the_short_way_of_the_usual_line_says_what_the_long_way_says(monkeypatch, word, number):
    def read() -> object:
        try:
            return parse_repo_list(f"{word}https://civitai.com/api/download/models/{number}")
        except WorkerError as error:
            return str(error), error.details

    short = read()
    monkeypatch.setattr("worker.sites.repo_list._simple_line", lambda number, text: None)
    assert read() == short


@pytest.mark.parametrize(
    ("link", "url"),
    [
        (VERSION, VERSION),
        (f"{VERSION}?type=Model&format=SafeTensor", f"{VERSION}?format=SafeTensor&type=Model"),
        (f"{VERSION}?fileId=007#top", f"{VERSION}?fileId=7"),
        ("https://www.civitai.red/api/download/models/128713/", VERSION),
        ("http://civitai.green/api/download/models/128713?utm_source=x", VERSION),
        ("https://CIVITAI.com/models/4384/dreamshaper?modelVersionId=128713", VERSION),
        ("https://civitai.com/models/4384?version=128713", VERSION),
        ("https://civitai.com/models/4384/dream-shaper", "https://civitai.com/models/4384"),
        ("civitai.com/models/04384", "https://civitai.com/models/4384"),
        ("https://civitai.com:443/models/4384", "https://civitai.com/models/4384"),
    ],
)
def test_every_spelling_of_a_civitai_link_becomes_one(link, url):
    line = one(link)
    assert (line.site, line.url, line.folder) == ("civitai", url, None)


@pytest.mark.parametrize(
    ("link", "url"),
    [
        (
            "https://huggingface.co/a/b/resolve/main/x.safetensors",
            "https://huggingface.co/a/b/resolve/main/x.safetensors",
        ),
        (
            "https://hf.co/a/b/blob/main/x.safetensors?download=true",
            "https://huggingface.co/a/b/resolve/main/x.safetensors",
        ),
        (
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/d/x%20y.safetensors",
            "https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/d/x%20y.safetensors",
        ),
        (
            "https://huggingface.co/gpt2/resolve/main/x.safetensors",
            "https://huggingface.co/gpt2/resolve/main/x.safetensors",
        ),
    ],
)
def test_hugging_face_links_are_normalised(link, url):
    line = one(f"vae {link}")
    assert (line.site, line.url, line.folder) == ("hf", url, "vae")


@pytest.mark.parametrize("word", [*TYPE_FOLDERS, "LoRA", "CKPT", "vae:"])
def test_each_type_word_names_its_folder(word):
    assert one(f"{word} {VERSION}").folder == TYPE_FOLDERS[word.lower().rstrip(":")]


def test_comments_blank_lines_windows_newlines_tabs_and_invisible_characters_do_not_count():
    text = (
        "\ufeff# a list\r\n\r\n  lora\t" + VERSION + "  # trailing\r\n\t#lora https://evil.example/x\r\n"
        "\u200bvae\u00a0https://civitai.com/models/\u200b7\u200b #x\r"
    )
    lines = parse_repo_list(text)
    assert [(line.number, line.folder, line.url) for line in lines] == [
        (3, "loras", VERSION),
        (5, "vae", "https://civitai.com/models/7"),
    ]


def test_a_list_of_lines_counts_like_one_text():
    assert [line.number for line in parse_repo_list([VERSION, "", "https://civitai.com/models/1"])] == [1, 3]
    assert parse_repo_list("") == parse_repo_list([]) == parse_repo_list(None) == []


def test_the_name_after_as_may_hold_spaces_and_quotes_around_it():
    assert one(f"{VERSION} as my  model (v1).safetensors").filename == "my  model (v1).safetensors"
    assert one(f'{VERSION} AS "模型 №1.safetensors" # note').filename == "模型 №1.safetensors"


def test_a_number_sign_ends_the_line_only_after_a_space():
    assert one(f"{VERSION} as a#b.safetensors").filename == "a#b.safetensors"
    assert one(f"{VERSION}#fragment").url == VERSION


def test_equal_requests_count_once_and_different_ones_do_not():
    same = "LORA http://civitai.red/api/download/models/128713?x=1"
    text = f"lora {VERSION}\n{same}\nvae {VERSION}\n{VERSION} as a.safetensors"
    lines = parse_repo_list(text)
    assert [line.number for line in lines] == [1, 3, 4]
    assert len({line.key for line in lines}) == 3


def test_a_pasted_token_is_kept_apart_from_everything_that_is_shown():
    secret = "abcdef0123456789"
    line = one(f"lora {VERSION}?token={secret}&type=Model as x.safetensors")
    assert line.token == secret
    assert secret not in f"{line!r} {line.key} {line.text} {line.url}"
    assert line.text == f"lora {VERSION}?type=Model as x.safetensors"
    assert line.key == one(f"lora {VERSION}?type=Model as x.safetensors").key
    assert one(f"{VERSION}?token={secret}").text == VERSION
    assert secret not in str(refusal(f"lora {VERSION}?token={secret} lora"))
    assert secret not in str(refusal(f"https://evil.example/x?token={secret}").details)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("128713", "a bare number may be a model or a version"),
        ("lora 128713", "no link follows the type word"),
        ("lora", "no link follows the type word"),
        ("some words", "[type] <link> [as <filename>]"),
        (f"model {VERSION}", "unknown type word `model`; known are ckpt, checkpoint, lora"),
        (f"{VERSION} lora", "the type word goes before the link"),
        (f"{VERSION} x.safetensors", "only `as <filename>` may follow"),
        (f"{VERSION} {VERSION}", "one model a line"),
        ("https://civitai.com/user/someone", "not a model"),
        ("https://civitai.com/images/123", "not a model"),
        ("https://civitai.com/api/v1/model-versions/5", "not a model"),
        ("https://civitai.com/models/4384?modelVersionId=x", "must be a number"),
        (f"{VERSION}?fileId=x", "fileId in the link must be a number"),
        ("lora https://civitaiarchive.com/models/5", "is an archive's page"),
        ("lora https://example.com/x.safetensors", "links to example.com are not allowed"),
        ("lora https://civitai.com.evil.example/models/5", "are not allowed"),
        ("lora https://evilcivitai.com/models/5", "are not allowed"),
        ("lora ftp://civitai.com/models/5", "must start with https://"),
        ("lora https://civitai.com:8443/models/5", "have no port; remove `:8443`"),
        ("lora https://civitai.com:x/models/5", "cannot be read"),
        ("lora https://[::1/models/5", "cannot be read"),
        ("lora https://u:hunter2@civitai.com/models/5", "user name or password"),
        ("lora https://civitai.com@evil.example/models/5", "user name or password"),
        ("lora https://127.0.0.1/x.safetensors", "not an IP address"),
        ("lora https://2130706433/x.safetensors", "not an IP address"),
        ("lora https://0x7f.1/x.safetensors", "not an IP address"),
        ("lora https://[::ffff:127.0.0.1]/x.safetensors", "not an IP address"),
        ("lora https://huggingface.co/a/b", "must name one file"),
        ("lora https://huggingface.co/a/b/tree/main", "must name one file"),
        ("lora https://huggingface.co/a/b/resolve/main/../../x.safetensors", "must name one file"),
        ("lora https://huggingface.co/a/b/resolve/main/%2e%2e/x.safetensors", "must name one file"),
        ("https://huggingface.co/a/b/resolve/main/x.safetensors", "put its type before this link, one of ckpt"),
        ("lora https://huggingface.co/a/b/resolve/main/config.json", "not a .safetensors model"),
        (f"{VERSION} as ../x.safetensors", "bare file name"),
        (f"{VERSION} as a\\x.safetensors", "bare file name"),
        (f"{VERSION} as ..", "is empty"),
        (f"{VERSION} as C:x.safetensors", "drive letter"),
        (f"{VERSION} as .hidden.safetensors", "`hidden.safetensors` would do"),
        (f"{VERSION} as a?b.safetensors", "`a_b.safetensors` would do"),
        (f"{VERSION} as {'x' * 240}.safetensors", "longer than 230 bytes"),
        (f"{VERSION} as notes.txt", "not a .safetensors model"),
        (f"{VERSION}?x={'y' * 2048}", "longer than 2048 bytes"),
    ],
)
def test_a_bad_line_is_quoted_with_its_number_and_what_would_be_right(text, problem):
    error = refusal(f"# first\n{text}")
    assert error.code is Code.INVALID_REPO_LIST
    assert "repo_list line 2 (`" in error.message
    assert problem in error.message
    assert "hunter2" not in f"{error} {error.details}"
    assert [bad["number"] for bad in error.details["lines"]] == [2]


def test_all_bad_lines_are_reported_at_once():
    error = refusal(f"5\n{VERSION}\nnonsense\nlora https://example.com/x")
    assert [bad["number"] for bad in error.details["lines"]] == [1, 3, 4]
    assert "(and 2 more, see details)" in error.message


def test_files_that_can_run_code_need_the_operators_word():
    for name in ("x.ckpt", "x.pt", "x.pth", "x.bin", "x.gguf", "x.safetensors.pkl"):
        assert refusal(f"{VERSION} as {name}").code is Code.MODEL_UNSAFE
        assert one(f"{VERSION} as {name}", allow_pickle=True).filename == name
        link = f"lora https://huggingface.co/a/b/resolve/main/{name}"
        assert refusal(link).code is Code.MODEL_UNSAFE
        assert refusal(f"{link} as renamed.safetensors").code is Code.MODEL_UNSAFE
    assert one(f"{VERSION} as x.sft").filename == "x.sft"


def test_further_hosts_are_allowed_by_name():
    hosts = ("models.example.com", "mirror.example.com:8443", "127.0.0.1", "localhost:9000")
    assert one("lora https://models.example.com/a/x.safetensors", hosts=hosts).site == "http"
    assert one("lora https://mirror.example.com:8443/x.safetensors", hosts=hosts).url.startswith("https://mirror")
    assert one("lora http://127.0.0.1:5000/x.safetensors", hosts=hosts).url == "http://127.0.0.1:5000/x.safetensors"
    assert one("lora http://localhost:9000/x.safetensors", hosts=hosts).site == "http"
    for link in (
        "http://models.example.com/x.safetensors",
        "https://models.example.com:444/x.safetensors",
        "https://sub.models.example.com/x.safetensors",
        "http://localhost:9001/x.safetensors",
        "https://models.example.com/",
    ):
        assert refusal(f"lora {link}", hosts=hosts).code is Code.INVALID_REPO_LIST


def test_a_signature_in_a_link_does_not_make_it_another_request():
    line = one(
        "lora https://models.example.com/x.safetensors?v=2&X-Amz-Signature=0123abcd&Expires=99",
        hosts=("models.example.com",),
    )
    assert line.key == "loras https://models.example.com/x.safetensors?v=2"
    assert "0123abcd" in line.url
    assert "0123abcd" not in line.text
    assert key_url("https://h/x?b=1&a=2#f") == "https://h/x?a=2&b=1"


def test_too_many_lines_and_other_values_are_refused():
    text = "\n".join(f"https://civitai.com/models/{n}" for n in range(1, MAX_LINES + 2))
    assert "takes 500 models" in refusal(text).message
    assert len(parse_repo_list(text.rpartition("\n")[0])) == MAX_LINES
    for value in (5, {"a": 1}, [1], [["x"]]):
        assert refusal(value).code is Code.INVALID_REPO_LIST


def test_the_link_can_be_taken_apart_again():
    link = read_civitai(one(f"{VERSION}?fileId=9&fp=fp16").url)
    assert (link.model, link.version, link.choice) == (None, 128713, {"fileId": "9", "fp": "fp16"})
    link = read_civitai(one("https://civitai.com/models/5/x").url)
    assert (link.model, link.version, link.choice) == (5, None, {})


def test_later_errors_quote_the_line_as_well():
    error = line_error(one(f"lora {VERSION}"), Code.MODEL_NOT_FOUND, "it is gone", details={"status": 404})
    assert str(error).startswith(f"MODEL_NOT_FOUND: repo_list line 1 (`lora {VERSION}`): it is gone.")
    assert error.details == {"line": 1, "text": f"lora {VERSION}", "status": 404}


@pytest.mark.parametrize(
    "line", ["https://civitai.com/models/1?x=\ud800", "lora https://hf.co/a/b/resolve/main/\ud800.sft"]
)
def test_half_a_character_in_a_line_is_refused_with_its_number(line):
    error = refusal(f"\n{line}")
    assert error.details["lines"][0]["number"] == 2
    assert "surrogate" in error.message
