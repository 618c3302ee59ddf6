"""
Rate and distortion
===================

A latent code is a lossy compression of its sample (Chaudhury 2024, section 14.3). The distortion is the squared error
of the reconstruction. The rate is the KL divergence of q(z | x) from the prior: the information, in nats, that the
latent code carries about its digit. `beta` sets the trade-off between the two in training, and the latent dimension
`nz` limits the rate.
"""

# %%
# The fits
# --------
# We fit one VAE for each `nz` and `beta`; the rate is part of the history of the fit. Probabilistic PCA is a VAE with a
# linear decoder and the exact posterior, so it has a rate as well, in closed form: half the sum over the axes of
# ln(variance along the axis / noise variance).
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklatent import PCAReducer, VAETransformer
from sklatent.metrics import reconstruction_error
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X, y = load_digits(return_X_y=True)
X_train, X_test = train_test_split(X / 16, random_state=0, stratify=y)


def describe(model, rate):
    """Rate in nats and bits, and squared errors summed over the pixels of a digit."""
    train, test = (
        reconstruction_error(part, model.inverse_transform(model.transform(part)))
        for part in parts
    )
    sampled = model.noise_variance_ * X.shape[1]
    return {
        "nats": rate,
        "bits": rate / np.log(2),
        "sampled": sampled,
        "train": train,
        "held_out": test,
    }


parts = X_train, X_test
sizes, betas = [2, 8, 16], [0.3, 1.0, 3.0]
records = []
for nz in sizes:
    for beta in betas:
        vae = VAETransformer(nz, beta=beta, random_state=0).fit(X_train)
        records.append(
            {"nz": nz, "beta": beta} | describe(vae, vae.history_[-1]["train_kl"])
        )
for nz in range(1, 33):
    pca = PCAReducer(nz).fit(X_train)
    rate = np.log(pca.explained_variance_ / pca.noise_variance_).sum() / 2
    records.append({"nz": nz} | describe(pca, rate))

# %%
# The table
# ---------
# The table has three errors. `sampled` is the error with latent codes sampled from q(z | x), on the training digits:
# the distortion that belongs to the rate. `train` and `held_out` are the errors with the latent codes of `transform`,
# the mean of q(z | x) (for PCA, the projection).
table = pd.DataFrame(records)
vaes, pcas = table[table["beta"].notna()], table[table["beta"].isna()]
print(vaes.to_string(index=False, float_format="{:.2f}".format))
print("PCA with the same latent dimensions:")
print(
    pcas[pcas["nz"].isin(sizes)]
    .drop(columns="beta")
    .to_string(index=False, float_format="{:.2f}".format)
)

# %%
# The rate-distortion curves
# --------------------------
# The figure shows the error of held-out digits against the rate. Along each curve, from left to right, `beta`
# decreases: the rate increases and the error decreases, within the limits of the latent dimension. With a large `beta`,
# latent dimensions 8 and 16 give the same rate and the same error: the additional dimensions are not used. Each dotted
# line is the error of PCA with the same latent dimension as the VAE of its colour, whatever its rate.
figure, ax = plt.subplots(figsize=(9, 5.5), layout="constrained")
ax.plot(
    pcas["nats"],
    pcas["held_out"],
    color="0.4",
    label=f"PCA, nz=1 to {pcas['nz'].max()}",
)
for k, nz in enumerate(sizes):
    curve, pca = vaes[vaes["nz"] == nz], pcas[pcas["nz"] == nz]
    ax.plot(
        curve["nats"], curve["held_out"], "o-", color=f"C{k}", label=f"VAE, nz={nz}"
    )
    ax.axhline(pca["held_out"].item(), color=f"C{k}", linestyle=":", linewidth=1)
    ax.plot(pca["nats"], pca["held_out"], "s", color=f"C{k}", label=f"PCA, nz={nz}")
for beta, nats, error in vaes.loc[
    vaes["nz"] == sizes[-1], ["beta", "nats", "held_out"]
].to_numpy():
    ax.annotate(
        rf"$\beta={beta:g}$",
        (nats, error),
        xytext=(-6, -8),
        textcoords="offset points",
        ha="right",
        va="top",
    )
ax.set(
    xlabel="rate, nats per digit",
    ylabel="squared error of a held-out digit",
    xlim=(0, None),
    yscale="log",
)
ax.set_title("Rate and distortion")
ax.set_yticks([0.2, 0.5, 1, 2, 4], labels=["0.2", "0.5", "1", "2", "4"])
ax.minorticks_off()
ax.secondary_xaxis(
    "top", functions=(lambda nats: nats / np.log(2), lambda bits: bits * np.log(2))
).set_xlabel("bits")
ax.legend()

# %%
# Comparison at equal rate
# ------------------------
# The error of each VAE divided by that of PCA at the same rate, interpolated between the points of PCA's curve: below 1
# the VAE is better. It is much better at low rates. At high rates PCA catches up, since it may use a larger latent
# dimension, most of all on held-out digits, whose details the network reconstructs less well than those of the training
# digits.
for part in ("train", "held_out"):
    ratio = vaes[part] / np.interp(vaes["nats"], pcas["nats"], pcas[part])
    print(f"error of the VAE divided by that of PCA at the same rate, {part}:")
    print(
        vaes.assign(ratio=ratio)
        .pivot(index="nz", columns="beta", values="ratio")
        .round(2)
        .to_string()
    )
plt.show()
