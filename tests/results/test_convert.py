"""Still images become WebP or JPEG and keep their workflow, colours and transparency as far as the format can."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from tests.support.webp_files import as_the_frontend_reads, odd_chunks, odd_webp
from worker.results.convert import NotConvertedError, convert, even_chunks

TEXTS = {"prompt": json.dumps({"1": {"inputs": {"text": "ü"}}}), "workflow": json.dumps({"nodes": [1]})}


def png(image: Image.Image, texts: dict[str, str] | None = None, **options) -> bytes:
    info = PngInfo()
    for name, text in (TEXTS if texts is None else texts).items():
        info.add_text(name, text)
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=info, **options)
    return out.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    layers = [Image.effect_noise((65, 43), 90) for _ in Image.new(mode, (1, 1)).getbands()]
    return layers[0].convert(mode) if len(layers) == 1 else Image.merge(mode, layers)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_comfyuis_frontend_finds_the_workflow_in_the_webp(mode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + b"\0"  # one chunk of odd length
    converted = convert(png(noise(mode), icc_profile=profile), "webp", 80, "a cat\nSteps: 3")
    assert as_the_frontend_reads(converted.data) == TEXTS
    assert converted.media_type == "image/webp"
    with Image.open(io.BytesIO(converted.data)) as image:
        image.load()
        assert image.size == (65, 43)
        assert image.mode == ("RGBA" if "A" in mode else "RGB")
        assert image.info["icc_profile"].startswith(profile)


def test_chunks_are_made_even_without_changing_the_picture():
    webp = odd_webp({"1": {}})
    assert odd_chunks(webp)
    assert as_the_frontend_reads(webp) == {}
    even = even_chunks(webp)
    assert not odd_chunks(even)
    assert as_the_frontend_reads(even) == {"prompt": '{"1": {}}'}
    with Image.open(io.BytesIO(webp)) as before, Image.open(io.BytesIO(even)) as after:
        assert before.tobytes() == after.tobytes()


def test_the_last_byte_of_a_cut_webp_is_not_lost():
    webp = convert(png(noise()), "webp", 80).data
    assert even_chunks(webp) == webp
    for end in (3, 13, 17, len(webp) - 1):
        assert even_chunks(webp[:end])[: end - 10] == webp[:end][: end - 10]


def test_a_jpeg_is_flattened_on_white_and_carries_the_prompt():
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    converted = convert(png(image), "jpeg", 95, "a cat\nSteps: 3")
    with Image.open(io.BytesIO(converted.data)) as found:
        assert found.getpixel((3, 3)) == (255, 255, 255)
        assert found.getexif()[0x0110] == f"prompt:{TEXTS['prompt']}"
        assert found.getexif().get_ifd(0x8769)[0x9286].startswith(b"UNICODE\0")


def test_what_does_not_fit_into_a_jpeg_is_left_out_and_said():
    converted = convert(png(noise(), {**TEXTS, "workflow": json.dumps("x" * 70_000)}), "jpeg", 90)
    assert converted.lost == "workflow did not fit into the JPEG"
    with Image.open(io.BytesIO(converted.data)) as found:
        assert found.getexif()[0x0110] == f"prompt:{TEXTS['prompt']}"


def test_a_webp_becomes_a_jpeg_with_its_prompt():
    webp = convert(png(noise()), "webp", 80).data
    with Image.open(io.BytesIO(convert(webp, "jpeg", 80).data)) as found:
        assert found.getexif()[0x0110] == f"prompt:{TEXTS['prompt']}"


def test_animated_ones_and_what_is_no_image_are_left_alone_without_a_word():
    out = io.BytesIO()
    noise().save(out, "WEBP", save_all=True, append_images=[noise()])
    for data in (out.getvalue(), b"no image", b"<svg/>", b""):
        with pytest.raises(NotConvertedError) as reason:
            convert(data, "webp", 80)
        assert str(reason.value) == ""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(Image.new("1", (17_000, 2))), "16383 pixels"),
        (png(Image.new("I;16", (9, 9))), "8 bits"),
        (png(noise())[:-40], "could not be read"),
    ],
)
def test_others_are_left_alone_with_the_reason(data, said):
    with pytest.raises(NotConvertedError, match=said):
        convert(data, "webp", 80)


def test_a_bomb_is_not_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 400):
        with pytest.raises(NotConvertedError, match="too many pixels"):
            convert(png(Image.new("1", (side, side))), "jpeg", 80)
