"""Five filters of real pictures, those that come with scikit-image; each saved beside what it was made of.

After ``pip install ".[demo]"``:  python examples/gallery.py [folder]
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

import fastconv as fc


def blur():
    """Each pixel the mean of its neighbours, by a Gaussian. A colour photo is filtered along two of its three axes."""
    photo = data.astronaut()
    soft = fc.correlate2d(photo, fc.gaussian_kernel(6), axes=(0, 1), boundary="reflect", dtype=np.uint8)
    return photo, soft


def edges():
    """The steepness of the grey: differences along both axes, by Sobel's kernels."""
    photo = data.camera() / 255
    down, across = (fc.correlate2d(photo, fc.sobel_kernel(axis), boundary="edge") for axis in (0, 1))
    return photo, -np.hypot(down, across).clip(0, 2)


def matched_filter():
    """Stars in noise. No linear filter raises a known shape further above white noise than the shape itself."""
    sky = data.hubble_deep_field()[300:700, 300:700].mean(axis=2)
    noisy = sky + np.random.default_rng(0).normal(0, 60, sky.shape)
    star = fc.gaussian_kernel(2.5)
    found = fc.correlate2d(noisy - noisy.mean(), star / np.linalg.norm(star), boundary="symmetric")
    return noisy.clip(0, 255), found.clip(0, 8 * 60)  # black: nothing; white: eight times the noise


def template():
    """Where does the page say "markers"? The correlation coefficient of the word and the window, at every pixel."""
    page = data.page()[:, :230] / 255
    word = page[50:65, 168:223]
    box = fc.box_kernel(word.shape)
    mean = fc.correlate2d(page, box, boundary="edge")
    variance = fc.correlate2d(page**2, box, boundary="edge") - mean**2
    covariance = fc.correlate2d(page, (word - word.mean()) / word.size, boundary="edge")
    alike = covariance / np.sqrt(variance * word.var() + 1e-6)
    near = fc.max_pool2d(alike[None, None], word.shape, stride=1, padding=(7, 27))[0, 0]
    return page, np.where(near > 0.6, page, 0.4 * page)


def mean_around_holes():
    """A photo with holes: the weighted mean of the pixels that are there, from two filters of the same kernel."""
    photo = data.chelsea()[:, 70:370].mean(axis=2)
    photo[np.random.default_rng(0).random(photo.shape) < 0.8] = np.nan
    there = np.isfinite(photo)
    kernel = fc.gaussian_kernel(1.5)
    total = fc.correlate2d(np.where(there, photo, 0), kernel)
    weight = fc.correlate2d(there, kernel)
    return photo, total / weight


PICTURES = {
    "blur": blur,
    "edges": edges,
    "matched filter": matched_filter,
    "word on a page": template,
    "mean around holes": mean_around_holes,
}


def save(figure, path):
    """As PNG of 150 greys and colours."""
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(150, Image.Quantize.MEDIANCUT).save(path, optimize=True)
    print(path)


def main(folder):
    folder.mkdir(exist_ok=True)
    everything = Figure(figsize=(9, 3.9), layout="constrained")
    columns = everything.subplots(2, len(PICTURES)).T
    for column, (title, make) in zip(columns, PICTURES.items(), strict=True):
        pair = make()
        single = Figure(figsize=(10, 5), layout="constrained")
        for panels in (column, single.subplots(1, 2)):
            for axes, picture in zip(panels, pair, strict=True):
                axes.imshow(picture, cmap="gray")
                axes.set_axis_off()
                axes.set_anchor("N")
            panels[0].set_title(title)
        save(single, folder / f"{title.replace(' ', '-')}.png")
    save(everything, folder / "gallery.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "gallery"))
