"""
Rate and distortion
===================

A code is a lossy compression of its row (14.3). What is lost is the squared error of the copy; what is kept is the
KL divergence of q(z | x) from the prior, the nats that a code carries about its digit. `beta` sets the price of a nat
in training, and the number of codes `nz` bounds what can be bought.
"""

# %%
# The fits
# --------
# One VAE for each `nz` and `beta`; its rate stands in the history of the fit. Probabilistic PCA is a VAE with a linear
# decoder and the exact posterior, so it has a rate too, in closed form: half the sum over the axes of
# ln(variance along the axis / noise variance).
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklatent import PCAReducer, VAETransformer
from sklatent.metrics import reconstruction_error

X, y = load_digits(return_X_y=True)
X_train, X_test = train_test_split(X / 16, random_state=0, stratify=y)


def describe(model, rate):
    """Rate in nats and bits, and squared errors summed over the pixels of a digit."""
    train, test = (reconstruction_error(part, model.inverse_transform(model.transform(part))) for part in parts)
    drawn = model.noise_variance_ * X.shape[1]
    return {"nats": rate, "bits": rate / np.log(2), "drawn": drawn, "train": train, "held_out": test}


parts = X_train, X_test
sizes, betas = [2, 8, 16], [0.3, 1.0, 3.0]
records = []
for nz in sizes:
    for beta in betas:
        vae = VAETransformer(nz, beta=beta, random_state=0).fit(X_train)
        records.append({"nz": nz, "beta": beta} | describe(vae, vae.history_[-1, "train_kl"]))
for nz in range(1, 33):
    pca = PCAReducer(nz).fit(X_train)
    rate = np.log(pca.explained_variance_ / pca.noise_variance_).sum() / 2
    records.append({"nz": nz} | describe(pca, rate))

# %%
# The table
# ---------
# Three errors: `drawn` is that of a code drawn from q(z | x), which is what the rate pays for, on the training digits;
# `train` and `held_out` are those of `transform`, which takes the mean of q(z | x) (for PCA the projection).
table = pd.DataFrame(records)
vaes, pcas = table[table["beta"].notna()], table[table["beta"].isna()]
print(vaes.to_string(index=False, float_format="{:.2f}".format))
print("PCA of as many codes:")
print(pcas[pcas["nz"].isin(sizes)].drop(columns="beta").to_string(index=False, float_format="{:.2f}".format))

# %%
# The picture
# -----------
# The error of held-out digits against the rate. Along a curve, from left to right, `beta` falls and nats buy detail,
# up to what `nz` codes can hold. Where a nat is dear, 8 codes and 16 come to the same rate and the same error: further
# codes are not worth their price. Each dotted line is PCA of as many codes as the VAE of its colour, at whatever rate.
figure, ax = plt.subplots(figsize=(9, 5.5), layout="constrained")
ax.plot(pcas["nats"], pcas["held_out"], color="0.4", label=f"PCA, 1 to {pcas['nz'].max()} codes")
for k, nz in enumerate(sizes):
    curve, pca = vaes[vaes["nz"] == nz], pcas[pcas["nz"] == nz]
    ax.plot(curve["nats"], curve["held_out"], "o-", color=f"C{k}", label=f"VAE, {nz} codes")
    ax.axhline(pca["held_out"].item(), color=f"C{k}", linestyle=":", linewidth=1)
    ax.plot(pca["nats"], pca["held_out"], "s", color=f"C{k}", label=f"PCA, {nz} codes")
for beta, nats, error in vaes.loc[vaes["nz"] == sizes[-1], ["beta", "nats", "held_out"]].to_numpy():
    ax.annotate(rf"$\beta={beta:g}$", (nats, error), xytext=(-6, -8), textcoords="offset points", ha="right", va="top")
ax.set(xlabel="rate, nats a digit", ylabel="squared error of a held-out digit", xlim=(0, None), yscale="log")
ax.set_title("What a nat buys")
ax.set_yticks([0.2, 0.5, 1, 2, 4], labels=["0.2", "0.5", "1", "2", "4"])
ax.minorticks_off()
ax.secondary_xaxis("top", functions=(lambda nats: nats / np.log(2), lambda bits: bits * np.log(2))).set_xlabel("bits")
ax.legend()

# %%
# Who is ahead at equal rate
# --------------------------
# The error of each VAE over that of PCA at the same nats, PCA's curve read between its points: below 1 the VAE is
# ahead. It is so by far where nats are few. Where many are spent the flat manifold catches up, for PCA may spread them
# over more codes; and most of all on held-out digits, whose details the network copies less well than those it learned.
for part in ("train", "held_out"):
    ratio = vaes[part] / np.interp(vaes["nats"], pcas["nats"], pcas[part])
    print(f"error of the VAE over that of PCA at the same rate, {part}:")
    print(vaes.assign(ratio=ratio).pivot(index="nz", columns="beta", values="ratio").round(2).to_string())
plt.show()
