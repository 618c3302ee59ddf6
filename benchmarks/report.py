"""Reports of the digits: bytes, time to write, time from a drag to the picture, and the page's decoder beside ours.

The drag is an event of the pointer, and ends when the decoded picture, the nearest sample and its reconstruction have
been drawn. Times in the browser are medians. Needs chromium, chromedriver and selenium.

    python benchmarks/report.py                # a minute
"""

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from selenium import webdriver
from sklearn.datasets import load_digits

from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.report import write_report

# Milliseconds of each of 100 drags. Browsers round their clock, so that ten drags are timed together.
DRAG = """
const [times, box] = [[], map.top.getBoundingClientRect()];
const send = (name, x, y) =>
  map.top.dispatchEvent(new PointerEvent(name, { pointerId: 1, clientX: box.left + x, clientY: box.top + y }));
send("pointerdown", ...map.toPixel(...map.point));
for (let i = 0; i < 100; i++) {
  const start = performance.now();
  for (let k = 0; k < 10; k++) send("pointermove", 100 + i + 10 * k, 300 - i);
  times.push((performance.now() - start) / 10);
}
return times;
"""
DECODE = """
const start = performance.now();
for (let i = 0; i < 200; i++) decode(state.z);
return (performance.now() - start) / 200;
"""


def models():
    """Each model by its name, with the length of the sides of its images and the largest number of samples."""
    quick = {"max_epochs": 1, "random_state": 0}  # times do not depend on what was learned
    return {
        "PCA 8 x 8": (PCAReducer(2), 8, 1797),
        "MLP 64-256-128, VAE": (VAETransformer(2, hidden_sizes=(256, 128), **quick), 8, 1797),
        "MLP 64-256-128, autoencoder": (AutoencoderTransformer(2, hidden_sizes=(256, 128), **quick), 8, 1797),
        "conv 8 x 8, VAE": (VAETransformer(2, backbone="conv", **quick), 8, 1797),
        "conv 32 x 32, VAE": (VAETransformer(2, backbone="conv", **quick), 32, 100),
    }


def open_browser():
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def measure(browser, model, X, y, side, folder):
    """Bytes, seconds to write, and milliseconds: a drag, a decoded sample in the page, and one by the estimator."""
    model.fit(X)
    start = time.process_time()
    path = write_report(model, X, folder / "report.html", y=y, image_shape=(side, side))
    written = time.process_time() - start
    browser.get(path.as_uri())
    drag = np.median(browser.execute_script(DRAG))
    decode = np.median([browser.execute_script(DECODE) for _ in range(9)])
    Z = model.transform(X[:1])
    ours = []
    for _ in range(50):
        start = time.perf_counter()
        model.inverse_transform(Z)
        ours.append(1000 * (time.perf_counter() - start))
    return path.stat().st_size, written, drag, decode, np.median(ours)


def main():
    """Print the table, a line as soon as it is known."""
    X, y = load_digits(return_X_y=True)
    browser = open_browser()
    print("CPU seconds to write; milliseconds of a drag and of a decoded sample\n")
    print("| model | samples | kB | write (s) | drag (ms) | page decodes (ms) | inverse_transform (ms) | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, side, n_samples) in models().items():
            images = np.kron(X[:n_samples].reshape(-1, 8, 8) / 16, np.ones((side // 8, side // 8)))
            images = images.reshape(n_samples, -1)
            size, written, drag, decode, ours = measure(browser, model, images, y[:n_samples], side, Path(folder))
            line = (
                f"| {name} | {n_samples} | {size / 1000:.0f} | {written:.2f} | {drag:.2f} | {decode:.3f} | {ours:.3f} |"
            )
            print(f"{line} {ours / decode:.1f} |", flush=True)
    browser.quit()


if __name__ == "__main__":
    main()
