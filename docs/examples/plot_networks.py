"""
The two networks, drawn from their modules
==========================================

An autoencoder is an encoder that narrows to the latent code and a decoder that widens again (Chaudhury 2024, figures
14.5 and 14.7). The encoder of a VAE ends in two heads, the mean and the log-variance of the latent code, from which a
Monte Carlo sample goes to the decoder in training, and the mean in `transform`. The shapes below are read from fitted
modules, not written by hand.
"""

# %%
# Shapes of a fitted network
# --------------------------
# `module_` is a PyTorch module. A hook on each of its layers notes the shape of what the layer puts out.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklatent import AutoencoderTransformer, VAETransformer
from sklearn.datasets import load_digits

X = (load_digits().data / 16).astype(np.float32)
params = {"backbone": "conv", "hidden_sizes": (16, 32), "max_epochs": 1}
models = {
    "autoencoder": AutoencoderTransformer(10, **params, random_state=0).fit(X),
    "VAE": VAETransformer(10, **params, random_state=0).fit(X),
}


def shapes(network, x):
    """Class and output shape of each layer of a network, in the order of its calls."""
    found = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, out: found.append((type(layer).__name__, out.shape[1:]))
        )
        for layer in network.modules()
        if not list(layer.children())
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


def stages(model):
    """Layers of encoder and decoder that change the shape."""
    module = model.module_.eval()
    image = torch.from_numpy(X[:1]).reshape(1, 1, 8, 8)
    inner = shapes(module.encoder, image), shapes(module.decoder, torch.zeros(1, 10))
    for layers in inner:
        kept = [layers[0]]
        for layer in layers[1:]:
            if layer[1] != kept[-1][1]:
                kept.append(layer)
        yield kept


for name, model in models.items():
    encoder, decoder = stages(model)
    n_weights = sum(weight.numel() for weight in model.module_.parameters())
    print(f"{name}: {n_weights} weights")
    for part, layers in [("encoder", encoder), ("decoder", decoder)]:
        for layer, shape in layers:
            print(f"  {part}  {layer:18} {' x '.join(map(str, shape))}")

# %%
# The drawing
# -----------
# The height of a block grows with the logarithm of the number of values in it.
figure, axes = plt.subplots(2, 1, figsize=(13, 6.2))
for ax, (name, model) in zip(axes, models.items(), strict=True):
    encoder, decoder = stages(model)
    blocks = [("sample", (1, 8, 8)), *encoder, ("latent code", (10,)), *decoder]
    for k, (layer, shape) in enumerate(blocks):
        height = np.log2(np.prod(shape)) / 10
        is_code = layer == "latent code"
        color = (
            "tab:red" if is_code else "tab:blue" if k <= len(encoder) else "tab:green"
        )
        ax.bar(k, height, bottom=-height / 2, width=0.55, color=color, alpha=0.75)
        ax.text(k, 0, "×".join(map(str, shape)), ha="center", va="center", fontsize=9)
        ax.text(k, -0.78, layer, ha="center", va="top", fontsize=8, rotation=20)
    ax.set(xlim=(-0.6, len(blocks) - 0.4), ylim=(-1.15, 0.8), title=name)
    ax.axis("off")
figure.tight_layout()
plt.show()
