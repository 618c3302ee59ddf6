"""
Denoising digits
================

A low-dimensional latent space cannot represent noise, so decoding the latent code of a noisy digit gives a cleaner one
(Chaudhury 2024, section 14.3). Networks trained with `noise`, on corrupted inputs with clean targets, denoise better.
PCA is the linear reference.
"""

# %%
# Fit
# ---
# Pixels lie in [0, 1]. `noise` is in units of the square root of the mean variance of the features, so the standard
# deviation of the noise on the test digits is divided by this unit. The other kind of noise, masking, hides a fraction
# of the pixels.
import matplotlib.pyplot as plt
import numpy as np
from sklatent import AutoencoderTransformer, PCAReducer, VAETransformer
from sklatent.metrics import reconstruction_error
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X_train, X_test = train_test_split(load_digits().data / 16, random_state=0)
deviation = 0.3
unit = np.sqrt(X_train.var(axis=0).mean())
noisy = X_test + deviation * np.random.default_rng(0).standard_normal(X_test.shape)

models = {
    "PCA": PCAReducer(16),
    "autoencoder": AutoencoderTransformer(16, random_state=0),
    "denoising autoencoder": AutoencoderTransformer(
        16, noise=deviation / unit, random_state=0
    ),
    "VAE": VAETransformer(16, random_state=0),
    "denoising VAE": VAETransformer(16, noise=deviation / unit, random_state=0),
}
cleaned = {}
print(f"squared error of the noisy digits: {reconstruction_error(X_test, noisy):.2f}")
for name, model in models.items():
    cleaned[name] = model.fit(X_train).inverse_transform(model.transform(noisy))
    print(f"after {name}: {reconstruction_error(X_test, cleaned[name]):.2f}")

# %%
# Reconstructions
# ---------------
# Twelve test digits, the same digits with noise, and their reconstructions by each model.
rows = {"digit": X_test, "noisy": noisy, **cleaned}
figure, axes = plt.subplots(len(rows), 12, figsize=(10, 6), layout="constrained")
for (name, digits), row in zip(rows.items(), axes, strict=True):
    row[0].set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center")
    for digit, ax in zip(digits, row, strict=False):
        ax.imshow(digit.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
plt.show()
