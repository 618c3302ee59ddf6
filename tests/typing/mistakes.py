"""Eight mistakes, which type checkers find in the lines that say so, and nowhere else."""

import numpy as np
from numpy.typing import NDArray

from sklatent import AutoencoderTransformer, GenerativeClassifier, LatentOutlierDetector, PCAReducer, VAETransformer

X: NDArray[np.float64] = np.zeros((20, 4))

PCAReducer(solver="arpack")  # mistake: scikit-learn's name
AutoencoderTransformer(2, likelihood="gausian")  # mistake: a slip of the pen
VAETransformer(2, 4.0)  # mistake: beta is a keyword
VAETransformer(2, betas=4.0)  # mistake: there is no such parameter
AutoencoderTransformer("2")  # mistake: nz is a number
label: str = VAETransformer(2).fit(X).score(X)  # mistake: a score is a number
classifier = GenerativeClassifier(PCAReducer(2)).fit(X)  # mistake: a classifier needs y
LatentOutlierDetector(contamination="automatic").fit(X)  # mistake: "auto"
