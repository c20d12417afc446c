"""The command line: images through kernels, what it refuses, info, a short demo."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv.cli import imagefile, main


@pytest.fixture
def Image():
    return pytest.importorskip("PIL.Image", reason="pillow is not installed")


KINDS = {"grey": (), "grey and alpha": (2,), "colour": (3,), "colour and alpha": (4,)}


def pixels(kind, dtype, h=13, w=17):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max + 1, (h, w, *KINDS[kind]), dtype)


def put(path, array):
    """Write an image by our own writer, which ``test_files_*`` checks against the array."""
    imagefile.write(str(path), array)
    return str(path)


def run(capsys, *arguments):
    """Exit status, standard output and error."""
    try:
        status = main([str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def refused(capsys, *arguments):
    """The one line on standard error."""
    status, out, error = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert error.startswith("fastconv filter: error: ")
    assert error.count("\n") == 1
    return error


# --- image files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", KINDS)
def test_files_keep_every_bit(tmp_path, Image, kind, dtype, suffix):
    if dtype == np.uint16 and kind == "grey and alpha":
        pytest.skip("Pillow can't read 16-bit grey with alpha, so nothing writes it")
    if dtype == np.uint16 and kind != "grey" and suffix == ".tif":
        pytest.importorskip("tifffile", reason="tifffile is not installed")
    array = pixels(kind, dtype)
    found = imagefile.read(put(tmp_path / f"a{suffix}", array))
    assert found.dtype == dtype
    assert np.array_equal(found, array)


def test_what_pillow_writes_is_read(tmp_path, Image):
    grey = pixels("grey", np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(imagefile.read(str(tmp_path / "a.png")), grey)
    assert np.array_equal(imagefile.read(put(tmp_path / "b.png", grey)), np.array(Image.open(tmp_path / "b.png")))
    two = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    two.save(tmp_path / "c.png")
    assert imagefile.read(str(tmp_path / "c.png")).tolist() == [[0, 255], [255, 0]]
    palette = Image.fromarray(pixels("colour", np.uint8)).quantize(16)
    palette.save(tmp_path / "d.png")
    assert np.array_equal(imagefile.read(str(tmp_path / "d.png")), np.array(palette.convert("RGB")))


def test_a_photo_that_lies_on_its_side_stands_up(tmp_path, Image):
    image = Image.fromarray(pixels("grey", np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.png", exif=exif)
    assert imagefile.read(str(tmp_path / "a.png")).shape == (17, 13)


# --- fastconv filter -------------------------------------------------------------------------------

KERNELS = {
    "gaussian:1.5": fc.gaussian_kernel(1.5),
    "sobel-x": fc.sobel_kernel(1),
    "sobel-y": fc.sobel_kernel(0),
    "box:3": fc.box_kernel(3),
    "laplacian": fc.laplacian_kernel(),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", KERNELS)
def test_filter_keeps_the_dtype_and_saturates(tmp_path, capsys, Image, name, dtype):
    array = pixels("grey", dtype)
    source, target = put(tmp_path / "a.png", array), tmp_path / "b.png"
    assert run(capsys, "filter", source, target, "--kernel", name) == (0, "", "")
    exact = fc.correlate2d(array.astype(float), KERNELS[name], boundary="edge", method="naive")
    expected = np.clip(exact, 0, np.iinfo(dtype).max)
    found = imagefile.read(str(target))
    assert found.dtype == dtype
    assert np.abs(found - expected).max() <= 0.5 + 1e-6
    if not name.startswith(("gaussian", "box")):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(("kind", "colours"), [("colour", 3), ("colour and alpha", 3), ("grey and alpha", 1)])
def test_colours_are_filtered_one_by_one_and_alpha_stays(tmp_path, capsys, Image, kind, colours):
    array = pixels(kind, np.uint8)
    source, target = put(tmp_path / "a.png", array), tmp_path / "b.png"
    assert run(capsys, "filter", source, target, "--kernel", "box:3")[0] == 0
    found = imagefile.read(str(target))
    assert found.shape == array.shape
    assert np.array_equal(found[..., colours:], array[..., colours:])
    for c in range(colours):
        alone = fc.correlate2d(array[..., c], fc.box_kernel(3), boundary="edge", dtype=np.uint8)
        assert np.array_equal(found[..., c], alone)


def test_16_bit_colour(tmp_path, capsys, Image):
    array = pixels("colour and alpha", np.uint16)
    source, target = put(tmp_path / "a.png", array), tmp_path / "b.png"
    assert run(capsys, "filter", source, target, "--kernel", "sobel-x")[0] == 0
    found = imagefile.read(str(target))
    exact = fc.correlate2d(array[..., :3].astype(float), fc.sobel_kernel(1), axes=(0, 1), boundary="edge")
    assert np.array_equal(found[..., :3], np.clip(exact, 0, 65535))
    assert np.array_equal(found[..., 3], array[..., 3])


def test_own_kernel_in_place_by_every_method(tmp_path, capsys, Image):
    array = pixels("grey", np.uint8)
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    np.save(tmp_path / "k.npy", kernel)
    expected = np.clip(fc.correlate2d(array, kernel, boundary="wrap"), 0, 255)
    for method in fc.METHODS:
        path = put(tmp_path / "a.png", array)
        given = ("filter", path, path, "--kernel", tmp_path / "k.npy", "--boundary", "wrap", "--method", method)
        status, _, error = run(capsys, *given, "--workers", 1)
        if status:  # a method that can't says so, and the file is as it was
            assert (status, method in error) == (2, True)
            assert np.array_equal(imagefile.read(path), array)
        else:
            assert np.array_equal(imagefile.read(path), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "k.npy"]


def test_explain(tmp_path, capsys, Image):
    path = put(tmp_path / "a.png", pixels("grey", np.uint8))
    status, out, _ = run(capsys, "filter", path, path, "--kernel", "gaussian:2", "--explain")
    assert status == 0
    assert "r17 s17" in out
    assert all(method in out for method in fc.METHODS)


def test_jpeg(tmp_path, capsys, Image):
    source = put(tmp_path / "a.png", np.full((16, 16, 3), 200, np.uint8))
    assert run(capsys, "filter", source, tmp_path / "b.jpg", "--kernel", "box:3")[0] == 0
    assert np.abs(imagefile.read(str(tmp_path / "b.jpg")).astype(int) - 200).max() <= 2


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("emboss", "gaussian:SIGMA, box:SIZE, sobel-x"),
        ("gaussian", "gaussian:SIGMA"),
        ("gaussian:", "sigma must be a number of pixels from 0"),
        ("gaussian:-1", "sigma must be"),
        ("gaussian:nan", "sigma must be"),
        ("gaussian:1e9", "sigma must be"),
        ("box:0", "size must be a whole number"),
        ("box:1.5", "size must be a whole number"),
        ("none.npy", "none.npy: no such file"),
    ],
)
def test_bad_kernels(tmp_path, capsys, Image, kernel, words):
    path = put(tmp_path / "a.png", pixels("grey", np.uint8))
    assert words in refused(capsys, "filter", path, tmp_path / "b.png", "--kernel", kernel)
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    "array",
    [np.ones(3), np.ones((3, 3, 1)), np.ones((0, 3)), np.ones((3, 3), complex), np.full((3, 3), np.nan), 2.0, ["a"]],
)
def test_arrays_that_are_no_kernels(tmp_path, capsys, Image, array):
    path = put(tmp_path / "a.png", pixels("grey", np.uint8))
    np.save(tmp_path / "k.npy", array)
    assert "k.npy: got " in refused(capsys, "filter", path, path, "--kernel", tmp_path / "k.npy")


def test_bad_files(tmp_path, capsys, Image):
    good, text, broken = put(tmp_path / "a.png", pixels("grey", np.uint8)), tmp_path / "t.png", tmp_path / "h.png"
    text.write_text("no image")
    broken.write_bytes((tmp_path / "a.png").read_bytes()[:100])
    (tmp_path / "k.npy").write_text("no array")
    out = tmp_path / "b.png"
    box = ("--kernel", "box:3")
    assert "none.png: no such file" in refused(capsys, "filter", tmp_path / "none.png", out, *box)
    assert "t.png: can't be read as an image" in refused(capsys, "filter", text, out, *box)
    assert "h.png: can't be read as an image" in refused(capsys, "filter", broken, out, *box)
    assert "can't be read as an image" in refused(capsys, "filter", tmp_path, out, *box)
    assert "k.npy: can't be read as an array" in refused(capsys, "filter", good, out, "--kernel", tmp_path / "k.npy")
    assert "must end in .png" in refused(capsys, "filter", good, tmp_path / "b.gif", *box)
    assert "there is no folder" in refused(capsys, "filter", good, tmp_path / "none" / "b.png", *box)
    (tmp_path / "dir.png").mkdir()
    assert "is a folder" in refused(capsys, "filter", good, tmp_path / "dir.png", *box)
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_left_alone(tmp_path, capsys, Image, monkeypatch):
    path = put(tmp_path / "a.png", pixels("grey", np.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def fail(file, *_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(imagefile, "_encode", fail)
    assert "No space left on device" in refused(capsys, "filter", path, path, "--kernel", "box:3")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_jpeg_holds_no_16_bits_and_several_images_are_refused(tmp_path, capsys, Image):
    deep = put(tmp_path / "a.png", pixels("grey", np.uint16))
    assert "JPEG holds neither" in refused(capsys, "filter", deep, tmp_path / "b.jpg", "--kernel", "box:3")
    pages = [Image.fromarray(pixels("grey", np.uint8)) for _ in range(2)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    assert "holds 2 images" in refused(capsys, "filter", tmp_path / "p.tif", tmp_path / "b.png", "--kernel", "box:3")


@pytest.mark.parametrize("workers", ["0", "two", "1.5"])
def test_bad_options(capsys, workers):
    assert run(capsys, "filter", "a.png", "b.png", "--kernel", "box:3", "--workers", workers)[0] == 2
    assert run(capsys, "filter", "a.png", "b.png", "--kernel", "box:3", "--method", "guess")[0] == 2
    assert run(capsys, "filter", "a.png", "b.png")[0] == 2
    assert run(capsys)[0] == 2


# --- the others ------------------------------------------------------------------------------------


def test_info_and_version(capsys):
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert f"methods: {', '.join(fc.METHODS)}" in out
    assert "numpy" in out
    assert "matplotlib" in out
    assert run(capsys, "--version")[:2] == (0, f"fastconv {fc.__version__}\n")


@pytest.mark.processes
def test_as_a_module():
    command, beside = [sys.executable, "-m", "fastconv", "--version"], Path(fc.__file__).parents[1]
    result = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=60)
    assert result.stdout == f"fastconv {fc.__version__}\n", result.stderr


def test_missing_packages_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    (tmp_path / "a.png").write_bytes(b"")
    assert 'pip install ".[demo]"' in refused(
        capsys, "filter", tmp_path / "a.png", tmp_path / "b.png", "--kernel", "box:3"
    )
    status, _, error = run(capsys, "demo", "--out", tmp_path / "pictures")
    assert (status, 'pip install ".[demo]"' in error) == (2, True)
    assert not (tmp_path / "pictures").exists()


@pytest.fixture
def demo():
    for package in ("matplotlib", "skimage", "mlxtend", "tqdm"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from fastconv.cli import demo

    return demo


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of other people's packages
def test_demo(tmp_path, capsys, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "demo", "--quick", "--workers", 1, "--out", "here")
    assert status == 0
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
    names = {"photo.png", "times.png", "learning.png", "digits.png", "filters.png"}
    assert {p.name for p in (tmp_path / "here").iterdir()} == names
    assert all(method in out for method in fc.METHODS)
    assert "unseen digits right" in out


def test_demo_into_a_file(tmp_path, capsys, demo):
    (tmp_path / "file").write_text("")
    status, _, error = run(capsys, "demo", "--out", tmp_path / "file")
    assert (status, error.count("\n")) == (2, 1)


def test_demo_interrupted(tmp_path, capsys, demo, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_time_filters", interrupt)
    status, _, error = run(capsys, "demo", "--quick", "--out", tmp_path)
    assert (status, "interrupted" in error) == (130, True)


def test_split_is_stratified_and_disjoint(demo):
    labels = np.repeat(np.arange(10), 50)
    seen, unseen = demo.split(labels, 400, 100, np.random.default_rng(0))
    assert not set(seen) & set(unseen)
    assert np.bincount(labels[seen]).tolist() == [40] * 10
    assert np.bincount(labels[unseen]).tolist() == [10] * 10
