"""
Pictures of latent models
=========================

What :mod:`sklatent.plotting` shows: of a VAE of digits, and of scikit-learn's PCA of a table in a Pipeline.
"""

# %%
# Latent space
# ------------
# The latent codes of digits, with the posterior of some of them, and what the latent space decodes to.
from sklatent import LatentOutlierDetector, PCAReducer, VAETransformer
from sklatent.plotting import (
    LatentDisplay,
    LoadingsDisplay,
    LossCurveDisplay,
    RateDistortionDisplay,
    ReconstructionDisplay,
    ScoreDisplay,
    ScreeDisplay,
    TraversalDisplay,
)
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
vae = VAETransformer(2, random_state=0).fit(X_train)
LatentDisplay.from_estimator(vae, X_test, y=y_test, ellipses=True)
TraversalDisplay.from_estimator(vae, n_steps=13, image_shape=(8, 8))

# %%
# Training and reconstructions
# ----------------------------
# The terms of the loss, and the digits that the VAE reconstructs best and worst.
LossCurveDisplay.from_estimator(vae)
ReconstructionDisplay.from_estimator(vae, X_test, image_shape=(8, 8))

# %%
# Scores
# ------
# Mirrored digits are outliers for a model of digits.
detector = LatentOutlierDetector(PCAReducer(16)).fit(X_train)
mirrored = X_test.reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64)
ScoreDisplay.from_estimator(
    detector, {"training": X_train, "new": X_test, "mirrored": mirrored}
)

# %%
# Principal components of a table
# -------------------------------
# Three components of the wines are more than noise. The biplot shows which chemical properties go together.
wine = load_wine(as_frame=True)
pipeline = make_pipeline(StandardScaler(), PCA()).fit(wine.data)
ScreeDisplay.from_estimator(pipeline, wine.data, random_state=0)
LoadingsDisplay.from_estimator(
    pipeline, wine.data, standardized=True, dimensions=[0, 1, 2]
)
LoadingsDisplay.from_estimator(pipeline, wine.data, standardized=True, kind="biplot")
LatentDisplay.from_estimator(
    pipeline, wine.data, y=wine.target_names[wine.target], dimensions=[0, 1, 2]
)

# %%
# Rate and distortion
# -------------------
# A larger beta takes nats from the latent codes, and leaves more out. The two terms of the loss after training:
betas = [0.1, 0.3, 1.0, 3.0]
vaes = [VAETransformer(8, beta=beta, random_state=0).fit(X_train) for beta in betas]
rates, distortions = (
    [vae.history_[-1][f"train_{term}"] for vae in vaes]
    for term in ("kl", "reconstruction")
)
RateDistortionDisplay(
    rates,
    distortions,
    labels=[f"beta={beta}" for beta in betas],
    scores=[vae.score(X_test) for vae in vaes],
    score_name="log-likelihood (nats)",
).plot()
