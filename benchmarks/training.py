"""Training and inference, beside a loop written by hand, plain skorch, pythae and PyOD.

Same network, batch, loss and optimizer everywhere, the contestants in turn, medians of five; ratios above 1 are in our
favour. pythae and PyOD take part where they are installed.

    python benchmarks/training.py                    # all parts, about 25 minutes on two cores
    python benchmarks/training.py --part loop        # rows a second in an epoch; --device cuda for a GPU
    python benchmarks/training.py --part quality     # wall time to the chapter's loss
    python benchmarks/training.py --part inference   # transform beside the bare encoder
    python benchmarks/training.py --part memory      # anonymous memory of a fit on 1 GB, and on a map of 4 GB
    python benchmarks/training.py --part kill        # fifty times kill -9, resumed
    python benchmarks/training.py --part threads     # default fits, quiet and beside one busy process
    python benchmarks/training.py --part weights     # default fits with sample_weight and without, in turn
    python benchmarks/training.py --part imports     # what `import sklatent` costs
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

from sklatent import AutoencoderTransformer, VAETransformer
from sklatent._nn.backbones import BACKBONES
from sklatent.datasets import fetch_mnist

LR = 1e-3
N_RUNS = 5
DEVICE = "cpu"


class HandWritten(nn.Module):
    """The chapter's VAE as one would write it down."""

    def __init__(self, n_features, hidden, nz, backbone="mlp"):
        super().__init__()
        if backbone == "conv":
            side = int(n_features**0.5)
            self.encoder, decoder = BACKBONES["conv"]((1, side, side), nz, 2 * nz, None, nn.ReLU)
            self.encoder, self.shape = nn.Sequential(nn.Unflatten(1, (1, side, side)), self.encoder), (1, side, side)
            self.decoder = nn.Sequential(decoder, nn.Flatten())
        else:
            self.encoder = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * nz))
            self.decoder = nn.Sequential(nn.Linear(nz, hidden), nn.ReLU(), nn.Linear(hidden, n_features))
        self.nz = nz

    def forward(self, x):
        """Minus the ELBO, mean over the rows."""
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        bce = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return (bce - 0.5 * (1 + log_var - mu.square() - log_var.exp()).sum()) / len(x)


def by_hand(X, hidden, nz, batch_size, epochs, backbone="mlp"):
    """Seconds of a plain PyTorch loop with fused Adam, the loss read once an epoch."""
    X = torch.from_numpy(X).to(DEVICE)
    net = HandWritten(X.shape[1], hidden, nz, backbone).to(DEVICE)
    return seconds(lambda: epochs_by_hand(net, X, batch_size, epochs))


def compiled_by_hand(X, hidden, nz, batch_size, epochs):
    """The same with torch.compile, after its first epoch. On the CPU there are no graphs, and it needs no compiler."""
    n_samples = len(X)
    X = torch.from_numpy(X[: n_samples // batch_size * batch_size]).to(DEVICE)  # an odd batch would be compiled anew
    options = {"backend": "eager"} if DEVICE == "cpu" else {"mode": "reduce-overhead"}
    net = torch.compile(HandWritten(X.shape[1], hidden, nz).to(DEVICE), **options)
    epochs_by_hand(net, X, batch_size, 1)
    return seconds(lambda: epochs_by_hand(net, X, batch_size, epochs)) * n_samples / len(X)


def epochs_by_hand(net, X, batch_size, epochs):
    """A plain PyTorch loop."""
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(len(X), device=DEVICE).split(batch_size):
            loss = net(X[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        total.item()


def ours(X, hidden, nz, batch_size, epochs, backbone="mlp"):
    """Seconds that the epochs of a fit took."""
    model = recipe(nz, hidden, batch_size, epochs, backbone)
    return sum(epoch["dur"] for epoch in model.fit(X).history_)


def recipe(nz, hidden, batch_size, epochs, backbone="mlp"):
    """The chapter's VAE as an estimator."""
    sizes = (hidden,) if backbone == "mlp" else None
    shape = {"hidden_sizes": sizes, "backbone": backbone, "activation": "relu", "likelihood": "bernoulli"}
    plain = {"lr": LR, "lr_schedule": "constant", "kl_warmup": 0, "device": DEVICE, "random_state": 0}
    return VAETransformer(nz, batch_size=batch_size, max_epochs=epochs, **shape, **plain)


def plain_skorch(X, hidden, nz, batch_size, epochs):
    """Seconds of skorch as it comes."""
    from skorch import NeuralNet

    class Net(NeuralNet):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            return y_pred

    net = Net(
        HandWritten,
        criterion=nn.Identity,
        optimizer=torch.optim.Adam,
        optimizer__fused=True,
        lr=LR,
        batch_size=batch_size,
        max_epochs=epochs,
        train_split=None,
        verbose=0,
        iterator_train__shuffle=True,
        module__n_features=X.shape[1],
        module__hidden=hidden,
        module__nz=nz,
        device=DEVICE,
    )
    net.initialize()
    start = time.perf_counter()
    net.fit_loop(X, np.zeros(len(X), dtype=np.float32))
    return time.perf_counter() - start


def pythae(X, hidden, nz, batch_size, epochs):
    """Seconds of pythae's trainer on its own VAE."""
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(X.shape[1], hidden), nn.ReLU())
            self.mu, self.log_var = nn.Linear(hidden, nz), nn.Linear(hidden, nz)

        def forward(self, x):
            h = self.layers(x)
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(nz, hidden), nn.ReLU(), nn.Linear(hidden, X.shape[1]), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    logging.disable(logging.WARNING)
    config = VAEConfig(input_dim=(X.shape[1],), latent_dim=nz, reconstruction_loss="bce")
    with tempfile.TemporaryDirectory() as folder:
        trainer = BaseTrainer(
            VAE(config, encoder=Encoder(), decoder=Decoder()),
            train_dataset=BaseDataset(torch.from_numpy(X), torch.zeros(len(X))),
            training_config=BaseTrainerConfig(
                output_dir=folder,
                num_epochs=epochs,
                per_device_train_batch_size=batch_size,
                learning_rate=LR,
                no_cuda=DEVICE == "cpu",
            ),
        )
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def pyod(X, hidden, nz, batch_size, epochs):
    """Seconds of a fit of PyOD's own VAE."""
    from pyod.models.vae import VAE

    model = VAE(
        encoder_neuron_list=[hidden],
        decoder_neuron_list=[hidden],
        latent_dim=nz,
        batch_size=batch_size,
        epoch_num=epochs,
        lr=LR,
        preprocessing=False,
        batch_norm=False,
        dropout_rate=0.0,
        verbose=0,
    )
    start = time.perf_counter()
    model.fit(X)
    return time.perf_counter() - start


def loop():
    """Rows a second in an epoch, and how many times those of each contestant."""
    digits, mnist = digits_rows(), mnist_rows()
    settings = [
        ("digits 64-128-2, batch 128", digits, (128, 2, 128, 40), {}),
        ("digits 64-128-2, batch 512", digits, (128, 2, 512, 80), {}),
        ("MNIST 1024-512-2, batch 256", mnist[:10_000], (512, 2, 256, 1), {}),
        ("MNIST conv nz=10, batch 256", mnist[:2_048], (None, 10, 256, 1), {"backbone": "conv"}),
    ]
    peers = [by_hand, plain_skorch, *(peer for peer in (pythae, pyod) if find_spec(peer.__name__))]
    print(f"\nRows a second, medians of {N_RUNS}, {torch.get_num_threads()} threads; times those of")
    print(f"{'':36}{'ours':>9}" + "".join(f"{peer.__name__:>14}" for peer in peers))
    for name, X, arguments, keywords in settings:
        contestants = [ours, *(peers if len(X) == len(digits) else peers[:1])]
        for contestant in contestants:  # warm-up
            contestant(X, *arguments[:3], 1, **keywords)
        for neighbour in ("quiet", "busy") if len(X) == len(digits) else ("quiet",):
            with beside(neighbour):
                times = np.array([[run(X, *arguments, **keywords) for run in contestants] for _ in range(N_RUNS)])
            ratios = np.median(times[:, 1:] / times[:, :1], axis=0)
            rows = len(X) * arguments[3] / np.median(times[:, 0])
            print(f"{name:29}{neighbour:7}{rows:9.0f}" + "".join(f"{ratio:14.2f}" for ratio in ratios), flush=True)


def quality():
    """Wall time to the chapter's final loss, against its own recipe in a loop by hand."""
    X_train, X_valid = train_test_split(mnist_rows(), test_size=5000, random_state=0)
    epochs = 20
    seconds = by_hand(X_train, 512, 2, 100, epochs)
    print(
        f"\nMNIST 32 x 32, the chapter's recipe by hand: {epochs} epochs (206.80 nats in the book) in {seconds:.0f} s"
    )
    for n in (1, 2, 8):
        start = time.perf_counter()
        model = VAETransformer(2, likelihood="bernoulli", max_epochs=n, device=DEVICE, random_state=0).fit(X_train)
        ours_seconds = time.perf_counter() - start
        loss = elbo_loss(model, X_valid)
        print(
            f"our defaults, max_epochs={n}: {loss:.2f} nats in {ours_seconds:.0f} s, "
            f"{seconds / ours_seconds:.1f} times faster",
            flush=True,
        )


def elbo_loss(model, X):
    """BCE + KL of held-out rows, by one draw."""
    from chapter import bce_and_kl

    return bce_and_kl(model, X)


def inference():
    """`transform` against the bare encoder, and the time of one row."""
    X = mnist_rows()[:60_000]
    model = recipe(2, 512, 256, 1).fit(X[:1000])
    rows = torch.from_numpy(X)

    def bare():
        with torch.no_grad():
            model.module_.encode(rows).numpy()

    times = np.array([[seconds(lambda: model.transform(X)), seconds(bare)] for _ in range(N_RUNS)])
    one = [seconds(lambda: model.transform(X[:1])) for _ in range(200)]
    print(f"\ntransform of {len(X)} rows: {np.median(times[:, 1] / times[:, 0]):.2f} times the rows a second of the")
    print(f"encoder on the whole array; one row: {1e3 * np.median(one):.2f} ms (median)")


MEMORY = """
import sys
import numpy as np
from sklatent import VAETransformer

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 2**20

X = np.load(sys.argv[1], mmap_mode="r" if sys.argv[2] == "map" else None)
import threading, time
peak, done = anonymous(), False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.005)
watcher = threading.Thread(target=watch)
start = anonymous()
watcher.start()
VAETransformer(2, hidden_sizes=(16,), batch_size=2048, max_epochs=1, random_state=0).fit(X)
done = True
watcher.join()
print(f"{start:.2f} {peak:.2f}")
"""


def memory():
    """Peak anonymous memory of a fit."""
    print("\nPeak anonymous memory of a fit of one epoch, GiB")
    for name, n_rows, kind in (("array of 1 GiB", 2**20, "array"), ("memory map of 4 GiB", 2**22, "map")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "X.npy"
            X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, 256))
            rng = np.random.default_rng(0)
            for start in range(0, n_rows, 2**16):
                X[start : start + 2**16] = rng.standard_normal((2**16, 256), dtype=np.float32)
            X.flush()
            del X
            output = subprocess.run([sys.executable, "-c", MEMORY, path, kind], capture_output=True, check=True).stdout
        before, peak = map(float, output.split())
        print(f"{name}: {before:.2f} before, {peak:.2f} at its peak, {peak - before:.2f} more", flush=True)


FIT = """
import sys
import numpy as np
import torch
from sklatent import VAETransformer
torch.set_num_threads(1)
X = np.random.default_rng(0).standard_normal((2000, 20)).astype(np.float32)
model = VAETransformer(2, max_epochs=60, checkpoint=sys.argv[1], random_state=0)
print("ready", flush=True)
model.fit(X)
np.savez(sys.argv[2], *[p.detach().numpy() for p in model.module_.parameters()], model.score_samples(X))
"""


def kill(n_kills=50):
    """Kill fits at random moments and let them go on; compare with one that was left alone."""
    rng = np.random.default_rng(0)
    same, unreadable, kills = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:

        def fit(name, limit=None):
            """Seconds of a fit, None where it was killed, and what it had to say."""
            command = [sys.executable, "-c", FIT, f"{folder}/{name}.npz", f"{folder}/{name}-result.npz"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                process.stdout.readline()
                start = time.perf_counter()
                if limit is not None:
                    time.sleep(limit)
                    process.send_signal(signal.SIGKILL)
                errors = process.stderr.read()
            return time.perf_counter() - start if process.returncode == 0 else None, errors

        longest, _ = fit("whole")
        while kills < n_kills:
            ended, _ = fit(kills, rng.uniform(0, longest))
            if ended is not None:  # faster than it was before
                longest = ended
            else:
                _, errors = fit(kills)
                unreadable += "must be a file that sklatent wrote" in errors
                with np.load(f"{folder}/{kills}-result.npz") as one, np.load(f"{folder}/whole-result.npz") as other:
                    same += all(np.array_equal(one[name], other[name]) for name in one.files)
                kills += 1
            Path(f"{folder}/{kills}.npz").unlink(missing_ok=True)
    print(
        f"\n{n_kills} fits killed as they ran: {same} bit-identical after they went on, {unreadable} unreadable files"
    )


THREADS = """
import sys, time, warnings
import numpy as np
from sklearn.datasets import load_digits, load_wine
from sklatent import VAETransformer
from sklatent._nn import threads
from sklatent.datasets import fetch_mnist

warnings.simplefilter("ignore")
name, n_samples = sys.argv[1], 1000
if name == "MNIST-784":
    X, epochs = np.ascontiguousarray(fetch_mnist()[0][:n_samples], dtype=np.float32), 10
else:
    X, epochs = {"wine": load_wine, "digits": load_digits}[name]().data, 15
limit = threads.MIN_PRODUCT_SIZE
VAETransformer(2, max_epochs=1, random_state=0).fit(X)
print("ready", flush=True)
for line in sys.stdin:  # the limit of the rule for one fit: 0 leaves PyTorch's threads as they are
    threads.MIN_PRODUCT_SIZE = limit if line.strip() == "rule" else 0
    start = time.perf_counter()
    VAETransformer(2, max_epochs=epochs, random_state=0).fit(X)
    print(time.perf_counter() - start, flush=True)
"""

BUSY = """
import numpy as np
a = np.random.default_rng(0).standard_normal((200, 200))
while True:
    a @ a
"""


def threads(n_runs=7):
    """Seconds of a fit with PyTorch's threads and with the rule for them, in turn, quiet and beside a busy process."""
    print(f"\nSeconds of VAETransformer(2).fit, medians of {n_runs}, {torch.get_num_threads()} threads, {load()}")
    print(f"{'':12}{'':8}{'all threads':>14}{'rule':>10}{'ratio':>10}")
    for name in ("wine", "digits", "MNIST-784"):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", THREADS, name], **pipes) as process:
            process.stdout.readline()

            def fit(kind, process=process):
                print(kind, file=process.stdin, flush=True)
                return float(process.stdout.readline())

            for neighbour in ("quiet", "busy"):
                with beside(neighbour):
                    times = np.array([[fit("all"), fit("rule")] for _ in range(n_runs)])
                both, ratio = np.median(times, axis=0), np.median(times[:, 1] / times[:, 0])
                print(f"{name:12}{neighbour:8}{both[0]:14.2f}{both[1]:10.2f}{ratio:10.2f}   {load()}", flush=True)
            process.stdin.close()


@contextmanager
def beside(neighbour):
    """Nothing if "quiet"; if "busy", a process that keeps one core busy with matrix products."""
    if neighbour == "quiet":
        yield
        return
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    busy = subprocess.Popen([sys.executable, "-c", BUSY], env=os.environ | one)
    try:
        time.sleep(1)
        yield
    finally:
        busy.kill()
        busy.wait()


def load():
    """Load of the machine, where the system tells it."""
    return f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"


def weights():
    """Processor seconds of a default fit to the digits, with weights of the samples over without, in turn."""
    X = digits_rows()
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    print(f"\nProcessor seconds of a fit, medians of {N_RUNS}, {load()}")
    print(f"{'':24}{'no weights':>12}{'weights':>10}{'ratio':>8}")
    for network in (AutoencoderTransformer, VAETransformer):
        model = network(8, random_state=0).fit(X)
        times = np.empty((N_RUNS, 2))
        for run in times:
            for k, sample_weight in enumerate((None, weights)):
                start = time.process_time()
                model.fit(X, sample_weight=sample_weight)
                run[k] = time.process_time() - start
        both, ratio = np.median(times, axis=0), np.median(times[:, 1] / times[:, 0])
        print(f"{network.__name__:24}{both[0]:12.2f}{both[1]:10.2f}{ratio:8.2f}", flush=True)


def imports():
    """Milliseconds of `import sklatent`, and what it loads."""
    code = "import time, sys; t = time.perf_counter(); import sklatent; print(1e3 * (time.perf_counter() - t), "
    code += "[name for name in ('torch', 'sklearn', 'numpy', 'skorch') if name in sys.modules])"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(N_RUNS)]
    times = sorted(float(run.split()[0]) for run in runs)
    print(f"\nimport sklatent: {times[len(times) // 2]:.1f} ms (median), loads {runs[0].split(maxsplit=1)[1].strip()}")


def digits_rows():
    """Digits in [0, 1]."""
    return (load_digits().data / 16).astype(np.float32)


def mnist_rows():
    """MNIST at 32 x 32, float32."""
    return np.ascontiguousarray(fetch_mnist(image_size=32)[0], dtype=np.float32)


def seconds(function):
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


PARTS = {part.__name__: part for part in (loop, quality, inference, memory, kill, threads, weights, imports)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="run one part only")
    parser.add_argument("--device", default=DEVICE, help="cpu (default) or cuda")
    arguments = parser.parse_args()
    DEVICE, chosen = arguments.device, arguments.part
    sys.path.insert(0, os.path.dirname(__file__))
    for name, part in PARTS.items():
        if chosen in (None, name):
            part()
