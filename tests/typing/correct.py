"""What users write: type checkers have nothing to say."""

import numpy as np
from numpy.typing import NDArray

from sklatent import AutoencoderTransformer, GenerativeClassifier, LatentOutlierDetector, PCAReducer, VAETransformer
from sklatent.export import to_onnx

X: NDArray[np.float64] = np.zeros((20, 4))
y: list[int] = [0, 1] * 10

pca: PCAReducer = PCAReducer(0.9, whiten=True).fit(X)
autoencoder: AutoencoderTransformer = AutoencoderTransformer(2, likelihood="bernoulli", density="residual").fit(X)
vae: VAETransformer = VAETransformer(2, beta=4, prior="vamp", posterior="full", hidden_sizes=[8, 4]).fit(X)
vae = vae.partial_fit(X)
Z: NDArray[np.float64] = VAETransformer(2, activation="relu").fit(X).transform(X)
scores: NDArray[np.float64] = vae.score_samples(X)
mean: float = pca.fit(X.tolist()).score(X)
samples: NDArray[np.float64] = autoencoder.sample(3, mean=True, random_state=0)
classifier: GenerativeClassifier = GenerativeClassifier(PCAReducer(2), reject_fraction=0.1).fit(X, y)
outliers: NDArray[np.int_] = LatentOutlierDetector(contamination=0.1).fit(X).predict(X)
file: bytes = to_onnx(pca, method="score_samples").SerializeToString()
